"""Changes logits before a token is picked: bias, constraint, penalties.

In the order of vLLM: what may not be picked at all, the caller's bias, then the penalties. The
penalties look at the sequence's tokens each time and keep nothing, so there is nothing that a retry
or a preemption could leave wrong.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.guide import Guide
from pitcrew_runtime.core.request import Sampling

Logits = NDArray[np.float32]


def shaped(
    logits: Logits, sampling: Sampling, history: Sequence[int], prompt_length: int
) -> Logits:
    """A changed copy of `logits` [vocabulary]; -inf where a token may not be picked.

    `history` is the prompt, of `prompt_length` tokens, and what was generated after it. At least one
    token stays possible: a guide always allows one, and tokens are withheld only beside others.
    """
    generated = history[prompt_length:]
    changed = logits.copy()
    if sampling.guide is not None:
        _keep_allowed(changed, sampling.guide, generated)
    if len(generated) < sampling.min_tokens:
        _withhold(changed, sampling.withheld)
    for token, bias in sampling.logit_bias:
        changed[token] += bias
    if sampling.repetition_penalty != 1.0:
        _penalize_repetition(changed, sampling.repetition_penalty, history)
    if generated and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = np.unique(np.asarray(generated, np.int64), return_counts=True)
        changed[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return changed


def _keep_allowed(logits: Logits, guide: Guide, generated: Sequence[int]) -> None:
    packed = np.frombuffer(guide.allowed(generated), np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[: len(logits)]
    logits[: len(bits)][bits == 0] = -np.inf
    logits[len(bits) :] = -np.inf


def _withhold(logits: Logits, tokens: Sequence[int]) -> None:
    kept = logits[list(tokens)]
    logits[list(tokens)] = -np.inf
    # A grammar that is complete allows nothing but an end: it is not overruled.
    if not np.isfinite(logits.max()):
        logits[list(tokens)] = kept


def _penalize_repetition(logits: Logits, penalty: float, history: Sequence[int]) -> None:
    seen = np.unique(np.asarray(history, np.int64))
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)
