"""From the logits of a run to the tokens of its rows; guesses are checked here.

A guess is accepted where it is the token that the row's sampling picks anyway, from the same logits
and with the same random number as without guesses; the first one that differs is replaced by the
token picked, and what follows is dropped. So guessing changes no token, greedy or sampled, and a
seed repeats its text whether or not there were guesses. A guess d is a fixed token, and is accepted
with its probability p(d): just what the rejection rule min(1, p / q) of Leviathan et al. 2023 and
Chen et al. 2023 gives for a proposal that is certain, q(d) = 1, and the token in place of a rejected
one follows p without d, as there.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.executor import Chosen
from pitcrew_runtime.core.request import Sampled
from pitcrew_runtime.execution.said import Sayings
from pitcrew_runtime.execution.sampler import Draw, NonFiniteLogits, sample


def choose(
    rows: Sequence[Row], logits: NDArray[np.float32], sayings: Sayings | None = None
) -> Sequence[Chosen]:
    """The tokens of each row from `logits` [B, K, vocabulary], laid out as `pack` asks for them.

    `sayings` may know the rows' texts from the step before. Raises `NonFiniteLogits`.
    """
    sayings = sayings or Sayings()
    chosen: list[list[Sampled]] = [[] for _ in rows]
    going = [index for index, row in enumerate(rows) if row.sampling is not None]
    place = 0
    while going:
        draws = [
            draw for index in going if (draw := _draw(rows[index], place, sayings)) is not None
        ]
        # A copy of many vocabularies takes longer than all that is done with them.
        these = logits[:, place] if len(going) == len(rows) else logits[going, place]
        for index, sampled in zip(going, sample(these, draws), strict=True):
            chosen[index].append(sampled)
        going = [index for index in going if _right(rows[index], place, chosen[index])]
        place += 1
    return chosen


def choose_likeliest(rows: Sequence[Row], best: NDArray[np.int64]) -> Sequence[Chosen]:
    """The same for rows that `are_plain`, from the likeliest tokens [B, K], -1 where there is none.

    Raises `NonFiniteLogits`.
    """
    chosen: list[list[Sampled]] = [[] for _ in rows]
    for row, tokens, found in zip(rows, best.tolist(), chosen, strict=True):
        if row.sampling is None:
            continue
        for place, token in enumerate(tokens):
            if token < 0:
                raise NonFiniteLogits("the network produced logits that are not finite")
            found.append(Sampled(token))
            if not _right(row, place, found):
                break
    return chosen


def are_plain(rows: Sequence[Row]) -> bool:
    """Whether the likeliest tokens are all that the rows' sampling asks for."""
    return all(row.sampling is None or row.sampling.is_plain for row in rows)


def _draw(row: Row, place: int, sayings: Sayings) -> Draw | None:
    """What decides the token after the first `place` guesses of a row."""
    if row.sampling is None:
        return None
    position = row.end - row.drafts + place
    if not row.sampling.shapes_logits:
        return Draw(row.sampling, position)
    said = sayings.of(row) if row.sampling.penalizes else None
    if not place:
        return Draw(row.sampling, position, row.history, row.prompt_length, said)
    right = _guesses(row)[:place]
    said = said.beyond(right) if said is not None else None
    return Draw(row.sampling, position, [*row.history, *right], row.prompt_length, said)


def _right(row: Row, place: int, chosen: Sequence[Sampled]) -> bool:
    return place < row.drafts and _guesses(row)[place] == chosen[place].token


def _guesses(row: Row) -> Sequence[int]:
    return row.tokens[len(row.tokens) - row.drafts :]
