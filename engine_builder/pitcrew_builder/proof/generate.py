"""Greedy continuations of many prompts at once, over pages as they are served.

Rows go on column by column, and a row whose prompt has not ended yet is fed its prompt (Touvron et
al. 2023, the reference code of "LLaMA"): one shape of batch serves prompts of unlike length. Rows
of near lengths share a batch, so few columns are spent on waiting.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pitcrew_builder.proof.evaluate import Open
from pitcrew_builder.proof.measure import Floats
from pitcrew_builder.proof.plan import Case, chunk
from pitcrew_builder.proof.sequences import Sequences
from pitcrew_builder.proof.windows import Windows

Ended: TypeAlias = Callable[[Sequence[int]], bool]
"""Whether an answer, given by its tokens so far, is over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is computed."""

    batch: int
    """Prompts at a time at most."""
    tokens: int
    """Tokens of an answer at most."""
    vocabulary: int


def generate(
    start: Open,
    prompts: Sequence[list[int]],
    limits: Limits,
    ended: Ended,
    advance: Callable[[float], None],
) -> list[list[int]]:
    """The likeliest tokens after each prompt, up to and with the one that ends the answer."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, list[int]] = {}
    for first in range(0, len(order), limits.batch):
        group = order[first : first + limits.batch]
        batch = _Batch([prompts[index] for index in group], limits.tokens, ended)
        batch.run(start, limits.vocabulary)
        answers.update(zip(group, batch.answers, strict=True))
        advance(len(answers) / len(prompts))
    return [answers[index] for index in range(len(prompts))]


class _Batch:
    """Prompts that grow together, in place, each by at most `tokens`."""

    def __init__(self, prompts: list[list[int]], tokens: int, ended: Ended) -> None:
        self._most, self._ended = tokens, ended
        self._prompts = [len(prompt) for prompt in prompts]
        ids = np.zeros((len(prompts), max(self._prompts) + tokens), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        self._rows = Windows(ids, np.array(self._prompts, np.int64))
        self._open = set(range(len(prompts)))

    @property
    def answers(self) -> list[list[int]]:
        """What follows each prompt."""
        rows = zip(self._rows.ids.tolist(), self._prompts, self._rows.lengths, strict=True)
        return [ids[begin:end] for ids, begin, end in rows]

    def run(self, start: Open, vocabulary: int) -> None:
        """Extend every row until its answer is over."""
        rows = self._rows
        sequences = start(rows, Case(len(self._prompts), rows.width))
        column = min(self._prompts)
        logits = self._read(sequences, column, vocabulary)
        self._append(column, logits)
        while self._open:
            logits = sequences.extend(rows, column, column + 1)
            column += 1
            self._append(column, logits)

    def _read(self, sequences: Sequences, stop: int, vocabulary: int) -> Floats:
        """The columns before `stop`, which every prompt has."""
        step = chunk(len(self._prompts), stop, vocabulary)
        for begin in range(0, stop, step):
            logits = sequences.extend(self._rows, begin, min(begin + step, stop))
        return logits

    def _append(self, column: int, logits: Floats) -> None:
        """Give each open row that ends before `column` its likeliest token."""
        likeliest = logits[:, -1].argmax(axis=-1)
        for row in sorted(self._open):
            if self._rows.lengths[row] != column:
                continue
            self._rows.ids[row, column] = likeliest[row]
            self._rows.lengths[row] = column + 1
            answer = self._rows.ids[row, self._prompts[row] : column + 1].tolist()
            if len(answer) == self._most or self._ended(answer):
                self._open.remove(row)
