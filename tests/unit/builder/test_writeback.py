"""Files that are sent to the disk early: all of their bytes, by a thread that is gone afterwards."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from pitcrew_builder.writeback import PORTION, begin, sent_early


def _files(root: Path) -> dict[Path, int]:
    files = {root / "empty": 0, root / "rank0" / "small": 5, root / "rank0" / "large": PORTION + 1}
    (root / "rank0").mkdir()
    for file, size in files.items():
        os.truncate(_touched(file), size)
    return files


def _touched(file: Path) -> Path:
    file.touch()
    return file


def test_every_byte_is_sent_while_the_body_runs(tmp_path: Path) -> None:
    files, sent = _files(tmp_path), dict[int, int]()
    done = threading.Event()

    def send(descriptor: int, offset: int, count: int) -> None:
        status = os.fstat(descriptor)
        assert offset == sent.get(status.st_ino, 0)
        sent[status.st_ino] = min(offset + count, status.st_size)
        if sum(sent.values()) == sum(files.values()):
            done.set()

    with sent_early(tmp_path, send):
        assert done.wait(60)
    assert sent == {file.stat().st_ino: size for file, size in files.items() if size}


def test_it_ends_with_the_body_though_much_is_left(tmp_path: Path) -> None:
    portions = 100_000
    os.truncate(_touched(tmp_path / "huge"), portions * PORTION)
    asked, calls = threading.Event(), list[int]()

    def send(descriptor: int, offset: int, count: int) -> None:
        calls.append(offset)
        asked.set()
        time.sleep(0.001)  # as a disk does

    before = threading.active_count()
    with suppress(KeyboardInterrupt), sent_early(tmp_path, send):
        assert asked.wait(60)
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert len(calls) < portions


def test_a_file_that_vanishes_is_nobodys_error(tmp_path: Path) -> None:
    for name, content in (("a", b"weights"), ("b", b"other"), ("c", b"more weights")):
        (tmp_path / name).write_bytes(content)
    told, done = list[int](), threading.Event()

    def send(descriptor: int, offset: int, count: int) -> None:
        (tmp_path / "b").unlink(missing_ok=True)
        told.append(os.fstat(descriptor).st_size)
        if len(told) == 2:
            done.set()

    with sent_early(tmp_path, send):
        assert done.wait(60)
    assert told == [7, 12]


def test_the_hint_leaves_the_bytes_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"weights")
    with file.open("rb") as stream:
        begin(stream.fileno(), 0, PORTION)
    assert file.read_bytes() == b"weights"
