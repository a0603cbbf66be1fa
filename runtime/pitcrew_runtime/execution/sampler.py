"""Picks tokens from logits with numpy.

A token's random number is a hash of (seed, position): no generator has a state that a batch, a
preemption or a retry could disturb. Ties go to the lower token id everywhere.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.request import Sampled, Sampling

_COLDEST = 1e-6
"""Colder is greedy: the division would only overflow."""

Logits = NDArray[np.float32]


class NonFiniteLogits(Exception):
    """The graph gave NaN or infinity: no token can be trusted."""


def sample(
    logits: Logits, samplings: Sequence[Sampling], positions: Sequence[int]
) -> list[Sampled]:
    """One token for each row.

    `logits` is [N, vocabulary]; `positions` are where the new tokens will stand. Raises
    `NonFiniteLogits`.
    """
    best = logits.argmax(axis=-1)
    # NaN wins every argmax, so the best logit of a row tells whether the row is sound.
    if not np.isfinite(logits[np.arange(len(best)), best]).all():
        raise NonFiniteLogits("the graph produced logits that are not finite")
    return [
        _pick(logits[row], int(best[row]), sampling, positions[row])
        for row, sampling in enumerate(samplings)
    ]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is fixed by its arguments."""
    key = f"{seed}:{position}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


def _pick(logits: Logits, best: int, sampling: Sampling, position: int) -> Sampled:
    token = best if sampling.temperature < _COLDEST else _draw(logits, sampling, position)
    if sampling.logprobs is None:
        return Sampled(token)
    return _with_logprobs(logits, token, sampling.logprobs)


def _draw(logits: Logits, sampling: Sampling, position: int) -> int:
    order = _candidates(logits, sampling.top_k)
    scaled = logits[order].astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled[0])
    cumulative = np.cumsum(weights)
    if sampling.top_p < 1.0:
        kept = int(np.searchsorted(cumulative, sampling.top_p * cumulative[-1])) + 1
        cumulative = cumulative[:kept]
    point = uniform(sampling.seed, position) * cumulative[-1]
    index = int(np.searchsorted(cumulative, point, side="right"))
    return int(order[min(index, len(cumulative) - 1)])


def _candidates(logits: Logits, top_k: int) -> NDArray[np.intp]:
    """Token ids, best first, at most `top_k` of them (0: all)."""
    if not 0 < top_k < len(logits):
        return np.argsort(-logits, kind="stable")
    # All that are at least the k-th best, in id order, so that ties are cut by id.
    threshold = np.partition(logits, -top_k)[-top_k]
    near = np.flatnonzero(logits >= threshold)
    return near[np.argsort(-logits[near], kind="stable")][:top_k]


def _with_logprobs(logits: Logits, token: int, count: int) -> Sampled:
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    top = _candidates(logits, count) if count else ()
    return Sampled(
        token, float(logprobs[token]), tuple((int(best), float(logprobs[best])) for best in top)
    )
