"""`pitcrew-engine` over a volume and over object storage."""

import fcntl
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from pitcrew_builder.engine_cli import main
from pitcrew_builder.manifest import MANIFEST_NAME, Manifest
from pitcrew_builder.report import EXIT_RETRY
from pitcrew_builder.store import STAGING, Store, open_engine
from pitcrew_builder.store.lookup import resolve
from pitcrew_builder.store.protocol import OnBytes, unwatched
from pitcrew_builder.store.pull import pull
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Run
from tests.unit.builder.s3_server import S3Server

DAY = 86400


@dataclass
class Scene:
    """A store with two engines of one model, and the tool."""

    flags: Sequence[str]
    ids: tuple[str, str]
    run: Callable[..., tuple[int, str, str]]

    def tool(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        return self.run(*words, *self.flags)

    def listed(self) -> list[str]:
        return [item["engineId"] for item in json.loads(self.tool("ls", "--json")[1])]


@pytest.fixture(params=["volume", "s3"])
def scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    run_build: Run,
    s3: S3Server,
    capsys: pytest.CaptureFixture[str],
) -> Scene:
    flags = ["--store", str(tmp_path / "store")]
    if request.param == "s3":
        address = s3.bucket().address
        flags = ["--store", address.url, "--store-endpoint", str(address.endpoint)]
    checkpoint = checkpoints.write(tmp_path / "tiny")
    first, second = (
        run_build(checkpoint, *flags, "--max-batch-size", size).succeeded for size in ("4", "8")
    )

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        return code, *capsys.readouterr()

    return Scene(flags, (first.engine_id, second.engine_id), run)


def test_ls_tells_of_every_engine(scene: Scene) -> None:
    code, out, _ = scene.tool("ls")
    assert code == 0
    assert "2 engine(s)" in out
    assert all(engine[:12] in out for engine in scene.ids)
    assert sorted(scene.listed()) == sorted(scene.ids)


def test_show_tells_what_the_bytes_are_for(scene: Scene, tmp_path: Path) -> None:
    code, out, _ = scene.tool("show", scene.ids[0][:8])
    assert code == 0
    for told in ("embedding", "attention", "mlp", "layers.0-1", "float32", "Attention 1"):
        assert told in out
    code, _, _ = scene.tool("show", scene.ids[0], "--html", str(tmp_path / "page.html"))
    assert code == 0
    text = (tmp_path / "page.html").read_text()
    assert "Bytes by layer" in text
    assert "<svg" in text
    # Self-contained: nothing is fetched, nothing runs.
    assert not re.search(r"https?:|<script|@import|url\(", text)


def test_verify_checks_all_or_those_named(scene: Scene) -> None:
    code, out, _ = scene.tool("verify")
    assert (code, out.count("files agree")) == (0, 2)
    assert scene.tool("verify", scene.ids[1][:6])[1].count("files agree") == 1


def test_diff_names_the_fields(scene: Scene) -> None:
    code, out, _ = scene.tool("diff", *scene.ids)
    assert code == 3
    assert "shapes.maxBatchSize" in out
    assert "commit" not in out
    assert scene.tool("diff", scene.ids[0], scene.ids[0][:10])[0] == 0


def test_pull_brings_a_whole_engine_once(scene: Scene, tmp_path: Path) -> None:
    target = tmp_path / "here" / "engine"
    assert scene.tool("pull", scene.ids[0], "--to", str(target))[0] == 0
    assert open_engine(target).engine_id == scene.ids[0]
    assert [item.name for item in target.parent.iterdir()] == ["engine"]
    before = (target / MANIFEST_NAME).stat()
    assert scene.tool("pull", scene.ids[0], "--to", str(target))[0] == 0
    assert (target / MANIFEST_NAME).stat() == before
    code, _, told = scene.tool("pull", scene.ids[1], "--to", str(target))
    assert code == 2
    assert "name a directory that does not exist" in told
    # What was this engine is mended; what is none, nobody touches.
    (target / "rank0" / "model.onnx").write_bytes(b"?")
    assert scene.tool("pull", scene.ids[0], "--to", str(target))[0] == 0
    assert open_engine(target).engine_id == scene.ids[0]
    assert [item.name for item in target.parent.iterdir()] == ["engine"]
    (target / MANIFEST_NAME).unlink()
    assert "is no engine" in scene.tool("pull", scene.ids[0], "--to", str(target))[2]
    assert (target / "rank0" / "model.onnx").exists()


def test_pull_removes_what_a_killed_pull_left(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "here" / STAGING / "dead" / "engine").mkdir(parents=True)
    assert scene.tool("pull", scene.ids[0], "--to", str(tmp_path / "here" / "x"))[0] == 0
    assert [item.name for item in (tmp_path / "here").iterdir()] == ["x"]


def test_gc_only_tells_unless_asked(scene: Scene) -> None:
    everything = ["gc", "--keep-last", "0", "--older-than", "0m"]
    code, out, _ = scene.tool(*everything, "--keep-id", scene.ids[1][:8])
    assert code == 0
    assert "1 engine(s) would go; run it again with --delete" in out
    assert len(scene.listed()) == 2
    code, out, _ = scene.tool(*everything, "--keep-id", scene.ids[1][:8], "--delete")
    assert (code, scene.listed()) == (0, [scene.ids[1]])
    assert "1 engine(s) removed" in out


def test_gc_of_named_engines_takes_them_at_any_age_and_no_other(scene: Scene) -> None:
    code, _, _ = scene.tool("gc", "--only-id", scene.ids[0], "--delete")
    assert (code, scene.listed()) == (0, [scene.ids[1]])
    again = scene.tool("gc", "--only-id", scene.ids[0], "--delete")
    assert (again[0], scene.listed()) == (0, [scene.ids[1]])


def test_gc_of_named_engines_wants_whole_ids(scene: Scene) -> None:
    with pytest.raises(SystemExit, match="2"):
        scene.tool("gc", "--only-id", scene.ids[0][:12], "--delete")
    assert len(scene.listed()) == 2


def test_gc_keeps_what_is_young_by_default(scene: Scene) -> None:
    assert scene.tool("gc", "--keep-last", "0", "--delete")[0] == 0
    assert len(scene.listed()) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "feedfeed"), "`pitcrew-engine ls` shows those it holds"),
        (("show", ""), "holds no engine"),
        (("gc", "--keep-id", "feed"), "so nothing is removed"),
    ],
)
def test_refusals_tell_the_remedy(words: tuple[str, ...], told: str, scene: Scene) -> None:
    code, _, errors = scene.tool(*words)
    assert code == 2
    assert told in errors


@pytest.mark.parametrize(
    ("manifest", "told"),
    [("{", "Invalid JSON"), ('{"engineId": 7}', "engineId: Input should be a valid string; ")],
)
def test_a_broken_manifest_is_told_on_one_line(
    manifest: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / MANIFEST_NAME).write_text(manifest)
    assert main(["show", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert told in errors
    assert errors.endswith("; build the engine again\n")
    assert "\n" not in errors.strip()
    assert "http" not in errors


def test_an_empty_address_is_no_store(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as a variable that a shell does not know."""
    assert main(["ls", "--store", ""]) == 2
    assert "--store is empty" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ls", "verify", "gc"])
@pytest.mark.parametrize("place", ["nowhere", "a-file"])
def test_a_misspelt_store_is_not_taken_for_an_empty_one(
    command: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-file").touch()
    assert main([command, "--store", str(tmp_path / place)]) == 2
    assert f"{place} is no directory, so no engine store" in capsys.readouterr().err
    assert main([command, "--store", str(tmp_path)]) == 0


def test_a_name_that_fits_two_is_refused(scene: Scene) -> None:
    tag = json.loads(scene.tool("ls", "--json")[1])[0]["tag"]
    code, _, errors = scene.tool("show", tag)
    assert code == 2
    assert "fits 2 engines" in errors


def test_a_damaged_engine_is_told_and_the_others_are_checked(
    tmp_path: Path, run_build: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    engines = [run_build(checkpoint, "--kv-page-size", size).engine for size in ("4", "8", "16")]
    (engines[0] / MANIFEST_NAME).write_text("{")
    (engines[1] / "rank0" / "model.onnx").write_bytes(b"?")
    store = str(tmp_path / "store")
    log = tmp_path / "termination-log"
    assert main(["verify", "--store", store, "--termination-log", str(log)]) == 2
    out = capsys.readouterr().out
    assert (out.count("DAMAGED"), out.count("files agree")) == (2, 1)
    assert re.fullmatch(r"EngineCorrupt: .+ \(and 1 more\)\n", log.read_text())
    assert main(["ls", "--store", store]) == 0
    assert "damaged" in capsys.readouterr().out
    assert main(["show", str(engines[2])]) == 0


def test_an_engine_that_is_read_is_not_removed(
    tmp_path: Path, run_build: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    build = run_build(checkpoints.write(tmp_path / "tiny"))
    os.utime(build.engine / MANIFEST_NAME, (0, 0))
    gc = ["gc", "--keep-last", "0", "--delete", "--store", str(build.store)]
    with (build.engine / MANIFEST_NAME).open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert main(gc) == 0
        assert "kept: being read" in capsys.readouterr().out
        named = ["--only-id", build.succeeded.engine_id]
        assert main([*gc, *named]) == EXIT_RETRY
        open_engine(build.engine)
    assert main(gc) == 0
    assert [path.name for path in build.store.iterdir()] == [STAGING]
    assert list((build.store / STAGING).iterdir()) == []


@pytest.mark.parametrize("age", ["", "7", "1y", "-1d", "٣d"])
def test_an_age_that_is_none_is_refused(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["gc", f"--older-than={age}"])
    assert "write 30m, 12h or 7d" in capsys.readouterr().err


def test_a_termination_log_that_cannot_be_written_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "no" / "log")
    words = ["pull", "abcd", "--to", str(tmp_path / "engine"), "--store", str(tmp_path)]
    assert main([*words, "--termination-log", nowhere]) == 2
    errors = capsys.readouterr().err
    assert "holds no engine 'abcd'" in errors
    assert nowhere in errors


def test_a_whole_path_is_found_without_a_look_at_the_others(tmp_path: Path, run_build: Run) -> None:
    class Blind(Store):
        def engines(self) -> NoReturn:
            raise AssertionError("every engine of the store was read")

    built = run_build(checkpoints.write(tmp_path / "tiny"))
    store = Blind(built.store)
    assert resolve(store, built.succeeded.path) == (store, built.succeeded.path)


def test_of_two_who_pull_to_one_place_both_have_the_engine(tmp_path: Path, run_build: Run) -> None:
    built = run_build(checkpoints.write(tmp_path / "tiny"))
    path, target = built.succeeded.path, tmp_path / "pulled" / "engine"

    class Overtaken(Store):
        def fetch(self, path: str, target_: Path, on_bytes: OnBytes = unwatched) -> Manifest:
            fetched = super().fetch(path, target_, on_bytes)
            pull(Store(built.store), path, target)
            return fetched

    found = pull(Overtaken(built.store), path, target)
    assert found == open_engine(target)
    assert [item.name for item in target.parent.iterdir()] == ["engine"]
