"""Log probabilities of a prompt's tokens: what the network thought of each before it saw it.

The logits of every position are wanted, which are many where the vocabulary is large: a row is
computed in pieces, one after the other, as chunks of a prompt are.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.request import Sampled
from pitcrew_runtime.execution.sampler import NonFiniteLogits, score

TOGETHER = 64
"""Positions whose logits are in memory at once: 33 MB for a vocabulary of 128,000."""


def pieces(row: Row, together: int = TOGETHER) -> Iterator[Row]:
    """The row cut up; each asks for the logits of all its tokens, as if all but one were guesses."""
    for begin in range(0, len(row.tokens), together):
        tokens = row.tokens[begin : begin + together]
        yield replace(row, tokens=tokens, start=row.start + begin, drafts=len(tokens) - 1)


def scores_of(piece: Row, logits: NDArray[np.float32]) -> list[Sampled]:
    """The prompt's tokens that follow those of a piece, from `logits` [tokens, vocabulary].

    Raises `NonFiniteLogits`.
    """
    if not np.isfinite(logits.max(axis=-1)).all():
        raise NonFiniteLogits("the network produced logits that are not finite")
    following = piece.history[piece.start + 1 : piece.start + 1 + piece.scores]
    wanted = piece.scored or 0
    return [score(logits[place], token, wanted) for place, token in enumerate(following)]
