"""Picks tokens from logits with numpy.

A token's random number is a hash of (seed, position): no generator has a state that a batch, a
preemption or a retry could disturb. Ties go to the lower token id everywhere. Every operation runs
over a whole vocabulary at a time, and greedy rows over the whole batch.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.request import Sampled, Sampling
from pitcrew_runtime.execution.said import Said
from pitcrew_runtime.execution.shaping import shaped

Logits = NDArray[np.float32]
Weights = NDArray[np.float32]


class NonFiniteLogits(Exception):
    """The graph gave NaN or infinity: no token can be trusted."""


class Draw(NamedTuple):
    """What decides one token beside the logits."""

    sampling: Sampling
    position: int
    """Where the token will stand."""
    history: Sequence[int] = ()
    """All tokens before it."""
    prompt_length: int = 0
    """How many of these are the prompt."""
    said: Said | None = None
    """How often each of them is there; None: it is counted where that is needed."""


def sample(logits: Logits, draws: Sequence[Draw]) -> list[Sampled]:
    """One token for each row of `logits` [N, vocabulary]. Raises `NonFiniteLogits`.

    A row's token does not depend on the other rows. Log probabilities are of the logits as they are.
    """
    best = likeliest(logits)
    if (best < 0).any():
        raise NonFiniteLogits("the network produced logits that are not finite")
    return [
        Sampled(token) if draw.sampling.is_plain else _pick(logits[row], token, draw)
        for row, (token, draw) in enumerate(zip(best.tolist(), draws, strict=True))
    ]


def likeliest(logits: Logits) -> NDArray[np.int64]:
    """The best token of each row of `logits` [..., vocabulary]; -1 where its logit is not finite."""
    best = logits.argmax(axis=-1)
    # NaN wins every argmax, so the best logit of a row tells whether the row is sound.
    highest = np.take_along_axis(logits, best[..., None], axis=-1)[..., 0]
    return np.where(np.isfinite(highest), best, -1)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is fixed by its arguments."""
    key = f"{seed}:{position}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


def weights(logits: Logits, sampling: Sampling) -> Weights:
    """The distribution that a token is drawn from: [vocabulary], not normalized, 0 where cut off.

    `logits` [vocabulary] are shaped already and the temperature is above 0. Tokens are cut by min_p,
    then by top_k, then by top_p of what is left.
    """
    found: Weights = logits - logits.max()
    found /= np.float32(sampling.temperature)
    np.exp(found, out=found)
    if sampling.min_p > 0.0:
        found[found < sampling.min_p] = 0.0
    if 0 < sampling.top_k < len(found):
        _keep_best(found, sampling.top_k)
    if sampling.top_p < 1.0:
        _keep_nucleus(found, sampling.top_p)
    return found


def _pick(logits: Logits, best: int, draw: Draw) -> Sampled:
    sampling = draw.sampling
    changed = logits
    if sampling.shapes_logits:
        changed = shaped(logits, sampling, draw.history, draw.prompt_length, draw.said)
        best = int(changed.argmax())
    token = best if sampling.is_greedy else _draw(changed, sampling, draw.position)
    if sampling.logprobs is None:
        return Sampled(token)
    return score(logits, token, sampling.logprobs)


def _draw(logits: Logits, sampling: Sampling, position: int) -> int:
    cumulative = np.cumsum(weights(logits, sampling), dtype=np.float64)
    point = uniform(sampling.seed, position) * cumulative[-1]
    # The first entry above the point has a weight; the last one that has bounds what rounding does.
    last = np.searchsorted(cumulative, cumulative[-1])
    return min(int(np.searchsorted(cumulative, point, side="right")), int(last))


def _keep_best(found: Weights, count: int) -> None:
    """Zero all but the `count` largest weights."""
    threshold = np.partition(found, -count)[-count]
    above = int(np.count_nonzero(found > threshold))
    equal = np.flatnonzero(found == threshold)
    found[found < threshold] = 0.0
    found[equal[count - above :]] = 0.0


def _keep_nucleus(found: Weights, top_p: float) -> None:
    """Zero all but the smallest set of largest weights whose part of the whole reaches `top_p`.

    Holtzman et al. 2020, without a sort of the vocabulary: the upper half of a positive float's bits
    orders as the float does, so a histogram over them finds the narrow band where the cut lies.
    """
    band = found.view(np.int32) >> 16
    mass = np.bincount(band, weights=found)[::-1].cumsum()
    reach = top_p * mass[-1]
    above = int(np.searchsorted(mass, reach))
    cut = len(mass) - 1 - above
    inside = np.flatnonzero(band == cut)
    order = inside[np.argsort(-found[inside], kind="stable")]
    before = mass[above - 1] if above else 0.0
    kept = int(np.searchsorted(before + np.cumsum(found[order], dtype=np.float64), reach)) + 1
    found[order[kept:]] = 0.0
    found[band < cut] = 0.0


def _best(logits: Logits, count: int) -> NDArray[np.intp]:
    """Ids of the `count` largest logits, best first, equals by id."""
    if count >= len(logits):
        return np.argsort(-logits, kind="stable")
    # All that are at least the last of them, in id order, so that ties are cut by id.
    threshold = np.partition(logits, -count)[-count]
    near = np.flatnonzero(logits >= threshold)
    return near[np.argsort(-logits[near], kind="stable")][:count]


def score(logits: Logits, token: int, count: int) -> Sampled:
    """The token with its log probability and the `count` best ones, under `logits` [vocabulary]."""
    shifted = logits - logits.max()
    total = float(np.log(np.exp(shifted).sum(dtype=np.float64)))
    top = _best(logits, count) if count else ()
    pairs = tuple((int(best), float(shifted[best]) - total) for best in top)
    return Sampled(token, float(shifted[token]) - total, pairs)
