from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.request import Sampled, Sampling
from pitcrew_runtime.execution.choosing import choose
from pitcrew_runtime.execution.said import Said, Sayings

TOKENS = st.lists(st.integers(0, 99), max_size=200)


class Watched(list[int]):
    """Knows how many of its tokens were read."""

    read = 0

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        found = super().__getitem__(index)
        self.read += len(found) if isinstance(index, slice) else 1
        return found

    def __iter__(self) -> Iterator[int]:
        self.read += len(self)
        return super().__iter__()


def row(history: list[int], prompt: int, *guess: int, number: int = 7) -> Row:
    sampling = Sampling(repetition_penalty=1.5, frequency_penalty=0.5)
    tokens = [history[-1], *guess]
    start = len(history) - 1
    return Row(number, tokens, start, (), sampling, history, prompt, drafts=len(guess))


def counts(said: Said) -> tuple[Counter[int], Counter[int]]:
    """Of everything, and of what was generated."""
    everything, generated = (
        Counter(dict(zip(one.tokens.tolist(), one.counts.tolist(), strict=True)))
        for one in (said.everything, said.generated)
    )
    return everything, generated


@given(TOKENS, st.lists(TOKENS, max_size=5), TOKENS)
def test_tallies_grow_with_their_text(
    prompt: list[int], pieces: list[list[int]], guess: list[int]
) -> None:
    history = [0, *prompt]
    length, sayings = len(history), Sayings()
    for piece in pieces:
        history += piece
        said = sayings.of(row(history, length))
        assert counts(said) == (Counter(history), Counter(history[length:]))
        beyond = counts(said.beyond(guess))
        assert beyond == (Counter([*history, *guess]), Counter([*history[length:], *guess]))
        assert counts(said) == (Counter(history), Counter(history[length:])), "as before"


def test_another_text_of_the_same_sequence_is_counted_anew() -> None:
    sayings = Sayings()
    sayings.of(row([1, 2, 3], 2))
    assert counts(sayings.of(row([4, 4, 5], 2))) == (Counter([4, 4, 5]), Counter([5]))


def test_texts_that_pause_are_forgotten() -> None:
    sayings = Sayings()
    first, second = row([1, 2], 1, number=1), row([3, 4], 1, number=2)
    before = [sayings.of(one) for one in (first, second)]
    sayings.keep([second])
    assert sayings.of(second) is before[1]
    assert sayings.of(first) is not before[0]


def test_penalties_read_a_text_once() -> None:
    """And not once for each of its tokens."""
    history, sayings = Watched([1] * 1000), Sayings()
    logits = np.zeros((1, 1, 8), np.float32)
    for _ in range(100):
        (chosen,) = choose([row(history, 1000)], logits, sayings)
        history.append(chosen[0].token)
    assert 1000 <= history.read < 1000 + 5 * 100


def test_guesses_are_penalized_as_what_was_said() -> None:
    logits = np.zeros((1, 3, 8), np.float32)
    logits[..., :4] = [4, 3, 2, 1]
    history, alone = [5, 0], []
    for _ in range(3):
        (one,) = choose([row(history, 1)], logits[:, :1])
        alone += one
        history.append(one[0].token)
    guess = [one.token for one in alone[:2]]
    (together,) = choose([row([5, 0], 1, *guess)], logits, Sayings())
    assert together == alone
    assert alone[0] != Sampled(0), "it was said already"
