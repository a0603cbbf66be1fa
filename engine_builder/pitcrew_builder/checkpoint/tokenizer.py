"""Whether a tokenizer is one: few lines of JSON can make a text grow without end.

A normalizer that doubles a letter, forty times in a row, asks for a terabyte. So the tokenizer of a
strange checkpoint encodes its first sentence in a child process whose memory and time are bounded.
"""

import os
import subprocess
import sys
from dataclasses import dataclass

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.checkpoint.tokenizer_probe import FAULT
from pitcrew_builder.errors import CheckpointCorrupt, CheckpointUnsafe

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one sentence may take, the reading of the file included."""

    memory: int = 4 << 30
    """Bytes of address space."""
    seconds: int = 30
    """Of one processor."""


def check_tokenizer(directory: Directory, bounds: Bounds = Bounds()) -> None:
    """Try the checkpoint's tokenizer, where it has one.

    Raises `CheckpointCorrupt` where it cannot be read, `CheckpointUnsafe` where it exceeds `bounds`.
    """
    if not directory.has(TOKENIZER):
        return
    directory.read_small(TOKENIZER)
    probe = [sys.executable, "-m", "pitcrew_builder.checkpoint.tokenizer_probe"]
    limits = [str(bounds.memory), str(bounds.seconds)]
    done = subprocess.run(
        [*probe, str(directory.file(TOKENIZER)), *limits],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"},
    )
    if done.returncode == FAULT:
        raise CheckpointCorrupt(
            f"{TOKENIZER} cannot be used: {done.stderr.strip()[:300]}; copy it again"
        )
    if done.returncode != 0:
        raise CheckpointUnsafe(
            f"{TOKENIZER} fails on one sentence with {bounds.memory >> 20:,} MiB of memory and "
            f"{bounds.seconds} s (it ended with {done.returncode}); take the published tokenizer of "
            f"this model"
        )
