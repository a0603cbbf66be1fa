import threading
from pathlib import Path

import pytest

from devcluster.artefacts import Artefact, Say, digest, digest_files, ensure
from devcluster.config import Config


def make_file(into: Path, say: Say) -> None:
    say("writing")
    (into / "file").write_text("made")


def test_a_key_depends_on_content_and_on_borders() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest(["ab"]) == digest([b"ab"])


def test_a_key_of_files_depends_on_paths_and_bytes_only(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    before = digest_files(tmp_path, [one, two])
    assert digest_files(tmp_path, [two, one]) == before
    one.write_text("2")
    two.write_text("1")
    assert digest_files(tmp_path, [one, two]) != before


def test_an_artefact_is_made_once(tmp_path: Path) -> None:
    config, made = Config(tmp_path), []
    artefact = Artefact("thing", "v1", "0123456789abcdef", lambda into, say: made.append(into))
    first = ensure(config, artefact)
    assert first.name == "thing-v1-0123456789ab"
    assert ensure(config, artefact) == first
    assert len(made) == 1


def test_another_key_is_another_artefact(tmp_path: Path) -> None:
    one = Artefact("thing", "v1", "a" * 64, make_file)
    two = Artefact("thing", "v1", "b" * 64, make_file)
    assert ensure(Config(tmp_path), one) != ensure(Config(tmp_path), two)


def test_a_failed_make_leaves_nothing(tmp_path: Path) -> None:
    def fail(into: Path, say: Say) -> None:
        make_file(into, say)
        raise RuntimeError("no")

    config = Config(tmp_path)
    with pytest.raises(RuntimeError):
        ensure(config, Artefact("thing", "v1", "a" * 64, fail))
    assert [path for path in config.artefacts.iterdir() if path.is_dir()] == []


def test_what_a_killed_make_left_is_cleared_away(tmp_path: Path) -> None:
    config = Config(tmp_path)
    artefact = Artefact("thing", "v1", "a" * 64, make_file)
    stale = config.artefacts / f".{artefact.directory_name}.tmp-dead"
    stale.mkdir(parents=True)
    assert (ensure(config, artefact) / "file").read_text() == "made"
    assert not stale.exists()


def test_two_at_once_make_one(tmp_path: Path) -> None:
    config, made, inside, go = Config(tmp_path), [], threading.Event(), threading.Event()

    def slow(into: Path, _: Say) -> None:
        inside.set()
        assert go.wait(10)
        made.append(into)

    artefact = Artefact("thing", "v1", "a" * 64, slow)
    threads = [threading.Thread(target=ensure, args=(config, artefact)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
