"""Greedy answers in batches: the same tokens as one prompt at a time, each fed exactly once."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_builder.proof.generate import Limits, generate
from pitcrew_builder.proof.measure import Floats
from pitcrew_builder.proof.plan import Case
from pitcrew_builder.proof.windows import Windows

VOCABULARY = 7
END = 0


def follows(prefix: list[int]) -> int:
    """A model whose every next token depends on all tokens before it."""
    return hashlib.sha256(bytes(prefix)).digest()[0] % VOCABULARY


class Rows:
    """Sequences that remember what they were fed, as pages would."""

    def __init__(self, rows: Windows, case: Case) -> None:
        assert case.capacity >= rows.width
        self.fed: list[list[int]] = [[] for _ in rows.ids]

    def extend(self, rows: Windows, start: int, stop: int) -> Floats:
        logits: npt.NDArray[Any] = np.zeros((len(rows.ids), stop - start, VOCABULARY), np.float32)
        for row, (fed, length) in enumerate(zip(self.fed, rows.lengths, strict=True)):
            for column in range(start, min(stop, length)):
                assert len(fed) == column, "a column was left out or fed twice"
                fed.append(int(rows.ids[row, column]))
                logits[row, column - start, follows(fed)] = 1
        return logits


def alone(prompt: list[int], tokens: int) -> list[int]:
    answer: list[int] = []
    while len(answer) < tokens and answer[-1:] != [END]:
        answer.append(follows([*prompt, *answer]))
    return answer


@given(
    prompts=st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9), min_size=1),
    batch=st.integers(1, 5),
    tokens=st.integers(1, 12),
)
def test_batches_answer_as_each_prompt_alone(
    prompts: list[list[int]], batch: int, tokens: int
) -> None:
    told: list[float] = []
    answers = generate(
        Rows, prompts, Limits(batch, tokens, VOCABULARY), lambda ids: ids[-1] == END, told.append
    )
    assert answers == [alone(prompt, tokens) for prompt in prompts]
    assert told == sorted(told)
    assert told[-1] == 1
