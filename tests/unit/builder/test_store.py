import fcntl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pitcrew_builder.errors import EngineCorrupt
from pitcrew_builder.manifest import MANIFEST_NAME
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.report import Phase, Progress, Succeeded
from pitcrew_builder.spec import BuildSpec, LocalSource
from pitcrew_builder.store import STAGING, Store, open_engine
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Run


def test_an_engine_that_is_there_is_found(tmp_path: Path, run_build: Run) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    first, second = run_build(checkpoint).succeeded, run_build(checkpoint).succeeded
    assert (first.cached, second.cached) == (False, True)
    assert second.seconds < 2
    assert first.manifest_sha256 == second.manifest_sha256


@pytest.mark.parametrize(
    "flags", [["--kv-page-size", "8"], ["--max-batch-size", "4"], ["--max-sequence-length", "32"]]
)
def test_other_shapes_are_another_engine(flags: list[str], tmp_path: Path, run_build: Run) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    assert (
        run_build(checkpoint).succeeded.engine_id
        != run_build(checkpoint, *flags).succeeded.engine_id
    )


def test_other_weights_are_another_commit(tmp_path: Path, run_build: Run) -> None:
    first = run_build(checkpoints.write(tmp_path / "tiny")).succeeded
    other = checkpoints.write(tmp_path / "tiny", checkpoints.tensors(seed=1))
    assert run_build(other).succeeded.commit != first.commit


def test_equal_inputs_give_equal_files(tmp_path: Path) -> None:
    """Two machines that build the same engine build the same bytes, the manifest's times apart."""
    checkpoint = checkpoints.write(tmp_path / "tiny")
    spec = BuildSpec(source=LocalSource(path=str(checkpoint), name="tiny"))
    manifests = []
    for name in ("a", "b"):
        places = Places(tmp_path / name, tmp_path / "cache")
        done = build(spec, places, Tracker(lambda _: None))
        manifests.append(open_engine(places.store / done.path))
    assert manifests[0].files == manifests[1].files
    assert manifests[0].canary == manifests[1].canary


def _spoil_byte(engine: Path) -> None:
    file = engine / "rank0" / "model.onnx.data"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _shorten(engine: Path) -> None:
    file = engine / "rank0" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])


def _lose(engine: Path) -> None:
    (engine / "tokenizer" / "config.json").unlink()


def _rewrite_manifest(old: str, new: str) -> Callable[[Path], None]:
    def apply(engine: Path) -> None:
        file = engine / MANIFEST_NAME
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return apply


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_spoil_byte, "does not have the digest"),
        (_shorten, "bytes instead of"),
        (_lose, "is missing"),
        (lambda engine: (engine / MANIFEST_NAME).unlink(), "no engine directory"),
        (_rewrite_manifest('"schemaVersion": 1', '"schemaVersion": 2'), "schema version 2"),
        (_rewrite_manifest('"kvPageSize": 16', '"kvPageSize": 32'), "not that of its identity"),
        (_rewrite_manifest('"rank0/model.onnx.data"', '"../../../outside"'), "leads out"),
        (_rewrite_manifest("{", "["), "cannot be read"),
    ],
)
def test_a_spoiled_engine_does_not_open(
    spoil: Callable[[Path], None], told: str, tmp_path: Path, run_build: Run
) -> None:
    engine = run_build(checkpoints.write(tmp_path / "tiny")).engine
    open_engine(engine)
    spoil(engine)
    with pytest.raises(EngineCorrupt, match=told):
        open_engine(engine)


@pytest.mark.parametrize("spoil", [_shorten, _lose])
def test_a_damaged_engine_is_built_anew(
    spoil: Callable[[Path], None], tmp_path: Path, run_build: Run
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    first = run_build(checkpoint)
    spoil(first.engine)
    again = run_build(checkpoint)
    assert not again.succeeded.cached
    assert again.engine == first.engine
    open_engine(again.engine)
    assert list((again.store / STAGING).iterdir()) == []


def test_staging_of_a_live_build_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.staging() as live:
        (live / "work").write_text("precious")
        assert Store(tmp_path).clean() == 0
        assert (live / "work").exists()
    assert list((tmp_path / STAGING).iterdir()) == []


def test_staging_of_a_dead_build_is_removed(tmp_path: Path) -> None:
    base = tmp_path / STAGING
    (base / "dead" / "engine").mkdir(parents=True)
    (base / "dead.lock").touch()
    (base / "lockless").mkdir()
    (base / "lone.lock").touch()
    with (base / "live.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (base / "live").mkdir()
        assert Store(tmp_path).clean() == 3
    assert sorted(item.name for item in base.iterdir()) == ["live", "live.lock"]


def test_builders_racing_for_one_id_make_one_engine(tmp_path: Path) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    spec = BuildSpec(source=LocalSource(path=str(checkpoint), name="tiny"))
    store = tmp_path / "store"
    builders = 4
    barrier = threading.Barrier(builders)
    outcomes: list[Succeeded] = []

    def run(number: int) -> None:
        waited = False

        def sink(progress: Progress) -> None:
            nonlocal waited
            if progress.phase is Phase.PUBLISH and not waited:
                waited = True
                # Everyone has a complete engine staged before anyone publishes.
                barrier.wait(timeout=60)

        places = Places(store, tmp_path / f"cache{number}")
        outcomes.append(build(spec, places, Tracker(sink)))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(builders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == builders
    assert sorted(outcome.cached for outcome in outcomes) == [False, True, True, True]
    assert len({outcome.manifest_sha256 for outcome in outcomes}) == 1
    open_engine(store / outcomes[0].path)
    assert len(list(store.glob("*/*/*/*/manifest.json"))) == 1
    assert list((store / STAGING).iterdir()) == []
