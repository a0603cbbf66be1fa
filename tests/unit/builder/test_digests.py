"""Digests of files: right, remembered, and forgotten where a file may have changed."""

import hashlib
import os
from pathlib import Path

from pitcrew_builder.checkpoint.digests import BLOCK, DigestCache

CONTENTS = {"empty": b"", "small": b"abc", "blocks": bytes(range(256)) * (BLOCK // 100)}


def _files(directory: Path) -> dict[str, Path]:
    for name, content in CONTENTS.items():
        (directory / name).write_bytes(content)
    return {name: directory / name for name in CONTENTS}


def test_several_files_are_hashed_at_once_and_counted(tmp_path: Path) -> None:
    told: list[int] = []
    digests = DigestCache(tmp_path / "cache.json").all(_files(tmp_path), told.append)
    expected = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    assert digests == expected
    assert sum(told) == sum(map(len, CONTENTS.values()))


def test_another_process_need_not_read_them_again(tmp_path: Path) -> None:
    files = _files(tmp_path)
    digests = DigestCache(tmp_path / "cache.json").all(files)
    told: list[int] = []
    assert DigestCache(tmp_path / "cache.json").all(files, told.append) == digests
    assert sorted(told) == sorted(map(len, CONTENTS.values()))  # each file as one step


def test_a_file_that_only_looks_the_same_is_read_again(tmp_path: Path) -> None:
    file = _files(tmp_path)["small"]
    cache = DigestCache(tmp_path / "cache.json")
    before, stat = cache.sha256(file), file.stat()
    file.write_bytes(b"xyz")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.sha256(file) == hashlib.sha256(b"xyz").hexdigest() != before
