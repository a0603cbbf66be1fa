"""A tokenizer that would take the machine is refused within its bounds."""

import json
from pathlib import Path
from typing import Any

import pytest

from pitcrew_builder.checkpoint.directory import SMALL_FILE_LIMIT, Directory
from pitcrew_builder.checkpoint.tokenizer import Bounds, check_tokenizer
from pitcrew_builder.errors import BuildError, CheckpointCorrupt, CheckpointUnsafe
from pitcrew_builder.report import EXIT_REFUSED, FailureReason
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Run

SMALL = Bounds(memory=512 << 20, seconds=2)
DOUBLING = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}


def _tokenizer(**changes: Any) -> str:  # noqa: ANN401
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    return json.dumps({"version": "1.0", "model": model, **changes})


def _grows(doublings: int) -> str:
    return _tokenizer(normalizer={"type": "Sequence", "normalizers": [DOUBLING] * doublings})


def _check(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    check_tokenizer(Directory.of(tmp_path), SMALL)


@pytest.mark.parametrize("text", [_tokenizer(), _grows(3)])
def test_a_plain_tokenizer_passes(text: str, tmp_path: Path) -> None:
    _check(text, tmp_path)


def test_a_checkpoint_without_tokenizer_passes(tmp_path: Path) -> None:
    check_tokenizer(Directory.of(tmp_path), SMALL)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (_grows(60), CheckpointUnsafe),
        ("{", CheckpointCorrupt),
        (_tokenizer(model={"type": "Unheard"}), CheckpointCorrupt),
        ("[" * 100_000, CheckpointCorrupt),
        ("", CheckpointCorrupt),
    ],
    ids=["grows without end", "no JSON", "unknown model", "nested without end", "empty"],
)
def test_a_bomb_is_refused(text: str, error: type[BuildError], tmp_path: Path) -> None:
    with pytest.raises(error, match="tokenizer"):
        _check(text, tmp_path)


def test_a_huge_tokenizer_is_refused_unread(tmp_path: Path, run_build: Run) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    with (checkpoint / "tokenizer.json").open("wb") as file:
        file.truncate(SMALL_FILE_LIMIT + 1)
    build = run_build(checkpoint)
    assert build.failed.reason is FailureReason.CHECKPOINT_CORRUPT
    assert "more than" in build.failed.message
    assert build.code == EXIT_REFUSED
    assert build.visible() == []
