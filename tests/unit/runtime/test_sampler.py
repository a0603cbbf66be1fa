import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.request import Sampling
from pitcrew_runtime.execution.sampler import NonFiniteLogits, sample, uniform

LOGITS = np.array([0.0, 2.0, 1.0, 2.0, -1.0], np.float32)


def draws(sampling: Sampling, count: int = 4000, logits: np.ndarray = LOGITS) -> np.ndarray:
    rows = np.tile(logits, (count, 1))
    picked = sample(rows, [sampling] * count, range(count))
    return np.bincount([one.token for one in picked], minlength=len(logits)) / count


def test_greedy_takes_the_lower_of_equals() -> None:
    (one,) = sample(LOGITS[None], [Sampling()], [0])
    assert one.token == 1
    assert one.logprob is None


def test_frequencies_follow_the_distribution() -> None:
    weights = np.exp(LOGITS / 0.7)
    assert draws(Sampling(temperature=0.7)) == pytest.approx(weights / weights.sum(), abs=0.03)


def test_top_k_cuts_ties_by_id() -> None:
    assert np.flatnonzero(draws(Sampling(temperature=1.0, top_k=1))).tolist() == [1]
    assert np.flatnonzero(draws(Sampling(temperature=5.0, top_k=3))).tolist() == [1, 2, 3]


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum()
    just_two = float(probabilities[1] + probabilities[3])
    found = draws(Sampling(temperature=1.0, top_p=just_two - 1e-6))
    assert np.flatnonzero(found).tolist() == [1, 3]
    assert np.flatnonzero(draws(Sampling(temperature=1.0, top_p=1e-9))).tolist() == [1]


@given(st.integers(), st.integers(0, 1 << 20))
def test_random_numbers_depend_on_seed_and_position_only(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position)
    assert uniform(seed, position) != uniform(seed + 1, position)


def test_a_row_is_sampled_alike_in_any_batch() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in range(6)]
    together = sample(rows, samplings, [9] * 6)
    alone = [sample(rows[i : i + 1], [samplings[i]], [9])[0] for i in range(6)]
    assert together == alone


def test_logprobs_are_of_the_untempered_distribution() -> None:
    (one,) = sample(LOGITS[None], [Sampling(temperature=0.1, logprobs=3)], [0])
    total = math.log(np.exp(LOGITS.astype(float)).sum())
    assert one.logprob == pytest.approx(LOGITS[one.token] - total)
    assert [token for token, _ in one.top] == [1, 3, 2]
    assert one.top[2][1] == pytest.approx(1.0 - total)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rubbish_logits_give_no_token(bad: float) -> None:
    rows = LOGITS[None].copy()
    rows[0, 2] = bad
    with pytest.raises(NonFiniteLogits):
        sample(rows, [Sampling()], [0])


@pytest.mark.parametrize("temperature", [1e-300, 1e-7, 1e-3])
def test_the_cold_limit_is_greedy(temperature: float) -> None:
    rows = np.array([[1.0, 90.0, 3.0]], np.float32)
    (one,) = sample(rows, [Sampling(temperature=temperature)], [0])
    assert one.token == 1
