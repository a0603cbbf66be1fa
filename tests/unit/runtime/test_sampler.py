import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.request import Sampling
from pitcrew_runtime.execution.sampler import Draw, NonFiniteLogits, sample, uniform, weights
from pitcrew_runtime.execution.shaping import shaped

LOGITS = np.array([0.0, 2.0, 1.0, 2.0, -1.0], np.float32)


def draws(sampling: Sampling, count: int = 4000, logits: np.ndarray = LOGITS) -> np.ndarray:
    rows = np.tile(logits, (count, 1))
    picked = sample(rows, [Draw(sampling, position) for position in range(count)])
    return np.bincount([one.token for one in picked], minlength=len(logits)) / count


@dataclass
class Only:
    """Allows what it is told to."""

    tokens: Sequence[int]
    asked: Sequence[int] = ()
    fault: str | None = None

    def allowed(self, generated: Sequence[int]) -> bytes:
        self.asked = list(generated)
        bits = np.zeros(max(self.tokens) + 1, np.uint8)
        bits[list(self.tokens)] = 1
        return np.packbits(bits, bitorder="little").tobytes()


def test_greedy_takes_the_lower_of_equals() -> None:
    (one,) = sample(LOGITS[None], [Draw(Sampling(), 0)])
    assert one.token == 1
    assert one.logprob is None


def test_frequencies_follow_the_distribution() -> None:
    expected = np.exp(LOGITS / 0.7)
    assert draws(Sampling(temperature=0.7)) == pytest.approx(expected / expected.sum(), abs=0.03)


def test_top_k_cuts_ties_by_id() -> None:
    assert np.flatnonzero(draws(Sampling(temperature=1.0, top_k=1))).tolist() == [1]
    assert np.flatnonzero(draws(Sampling(temperature=5.0, top_k=3))).tolist() == [1, 2, 3]


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum()
    just_two = float(probabilities[1] + probabilities[3])
    found = draws(Sampling(temperature=1.0, top_p=just_two - 1e-6))
    assert np.flatnonzero(found).tolist() == [1, 3]
    assert np.flatnonzero(draws(Sampling(temperature=1.0, top_p=1e-9))).tolist() == [1]


def test_min_p_keeps_what_is_near_the_best() -> None:
    # The others have e^-1, e^-2 and e^-3 of the best one's probability.
    found = draws(Sampling(temperature=1.0, min_p=math.exp(-2) - 1e-6))
    assert np.flatnonzero(found).tolist() == [0, 1, 2, 3]
    found = draws(Sampling(temperature=1.0, min_p=math.exp(-2) + 1e-6))
    assert np.flatnonzero(found).tolist() == [1, 2, 3]


@given(
    seed=st.integers(0, 1 << 32),
    temperature=st.floats(0.1, 2),
    top_k=st.integers(0, 700),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)
def test_the_cuts_are_those_of_the_definition(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.random.default_rng(seed).normal(size=600, scale=3).astype(np.float32)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    expected[expected < min_p] = 0
    order = np.argsort(-expected, kind="stable")
    expected[order[top_k or 600 :]] = 0
    before = np.concatenate([[0], np.cumsum(expected[order])[:-1]])
    expected[order[before >= top_p * expected.sum() * (1 + 1e-12)]] = 0
    found = weights(logits, sampling)
    # A token that ends the set within rounding of a bound may be on either side of the cut.
    assert np.count_nonzero(~np.isclose(found, expected, rtol=1e-4)) <= 1
    assert found.sum() >= top_p * expected.sum() * (1 - 1e-5)


def test_a_wide_nucleus_in_a_large_vocabulary_is_found() -> None:
    found = weights(np.zeros(70_000, np.float32), Sampling(temperature=1.0, top_p=0.5))
    assert np.flatnonzero(found).tolist() == list(range(35_000))


def test_penalties_follow_their_definitions() -> None:
    history = [4, 4, 1, 2, 2, 2]  # the prompt is [4, 4]
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0)
    found = shaped(LOGITS, sampling, history, 2)
    assert found.tolist() == [0.0, 2 / 2 - 0.5 - 0.25, 1 / 2 - 0.5 - 0.75, 2.0, -1.0 * 2]
    assert LOGITS.tolist() == [0.0, 2.0, 1.0, 2.0, -1.0]


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 40))
def test_penalties_count_what_was_generated(history: list[int], prompt: int) -> None:
    sampling = Sampling(presence_penalty=1.0, frequency_penalty=0.5)
    counts = Counter(history[prompt:])
    expected = [
        logit - (1.0 + 0.5 * counts[token] if counts[token] else 0.0)
        for token, logit in enumerate(LOGITS.tolist())
    ]
    assert shaped(LOGITS, sampling, history, prompt).tolist() == pytest.approx(expected)


def test_a_bias_decides() -> None:
    sampling = Sampling(logit_bias=((4, 100.0), (1, -100.0)))
    (one,) = sample(LOGITS[None], [Draw(sampling, 0)])
    assert one.token == 4


def test_ending_tokens_are_withheld_until_enough_is_said() -> None:
    sampling = Sampling(min_tokens=2, withheld=(1, 3))
    picked = [
        sample(LOGITS[None], [Draw(sampling, 3, [9, 9, *said], 2)])[0].token
        for said in ([], [0], [0, 0])
    ]
    assert picked == [2, 2, 1]


def test_a_guide_is_asked_about_the_output_alone_and_obeyed() -> None:
    guide = Only([0, 4])
    sampling = Sampling(temperature=2.0, guide=guide, logprobs=1)
    rows = np.tile(LOGITS, (200, 1))
    picked = sample(rows, [Draw(sampling, n, [7, 8, 0], 2) for n in range(200)])
    assert {one.token for one in picked} == {0, 4}
    assert guide.asked == [0]
    assert {one.top[0][0] for one in picked} == {1}  # log probabilities are of the model


def test_a_guide_that_only_allows_an_end_is_not_overruled() -> None:
    sampling = Sampling(guide=Only([3]), min_tokens=9, withheld=(3,))
    assert sample(LOGITS[None], [Draw(sampling, 0)])[0].token == 3


@given(st.integers(), st.integers(0, 1 << 20))
def test_random_numbers_depend_on_seed_and_position_only(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position)
    assert uniform(seed, position) != uniform(seed + 1, position)


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5]),
    top_p=st.sampled_from([0.1, 0.7, 1.0]),
    min_p=st.sampled_from([0.0, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 1 << 60),
    logprobs=st.sampled_from([None, 0, 2]),
)


@given(
    st.lists(st.tuples(SAMPLINGS, st.lists(st.integers(0, 49), max_size=9)), min_size=1, max_size=6)
)
def test_a_row_is_sampled_alike_in_any_batch(asked: list[tuple[Sampling, list[int]]]) -> None:
    rows = np.random.default_rng(0).normal(size=(len(asked), 50)).astype(np.float32)
    wanted = [Draw(sampling, 9, history, 1) for sampling, history in asked]
    alone = [sample(rows[i : i + 1], [one])[0] for i, one in enumerate(wanted)]
    assert sample(rows, wanted) == alone


def test_logprobs_are_of_the_untempered_distribution() -> None:
    (one,) = sample(LOGITS[None], [Draw(Sampling(temperature=0.1, logprobs=3), 0)])
    total = math.log(np.exp(LOGITS.astype(float)).sum())
    assert one.logprob == pytest.approx(LOGITS[one.token] - total)
    assert [token for token, _ in one.top] == [1, 3, 2]
    assert one.top[2][1] == pytest.approx(1.0 - total)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rubbish_logits_give_no_token(bad: float) -> None:
    rows = LOGITS[None].copy()
    rows[0, 2] = bad
    with pytest.raises(NonFiniteLogits):
        sample(rows, [Draw(Sampling(), 0)])


@pytest.mark.parametrize("temperature", [1e-300, 1e-7, 1e-3])
def test_the_cold_limit_is_greedy(temperature: float) -> None:
    rows = np.array([[1.0, 90.0, 3.0]], np.float32)
    (one,) = sample(rows, [Draw(Sampling(temperature=temperature), 0)])
    assert one.token == 1
