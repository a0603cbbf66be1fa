"""Changes logits before a token is picked: bias, constraint, penalties.

In the order of vLLM: what may not be picked at all, the caller's bias, then the penalties.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.guide import Guide
from pitcrew_runtime.core.request import Sampling
from pitcrew_runtime.execution.said import Said, Tally

Logits = NDArray[np.float32]


def shaped(
    logits: Logits,
    sampling: Sampling,
    history: Sequence[int],
    prompt_length: int,
    said: Said | None = None,
) -> Logits:
    """A changed copy of `logits` [vocabulary]; -inf where a token may not be picked.

    `history` is the prompt, of `prompt_length` tokens, and what was generated after it; `said` are
    its tallies, where somebody keeps them. At least one token stays possible: a guide always allows
    one, and tokens are withheld only beside others.
    """
    changed = logits.copy()
    if sampling.guide is not None:
        _keep_allowed(changed, sampling.guide, history[prompt_length:])
    if len(history) - prompt_length < sampling.min_tokens:
        _withhold(changed, sampling.withheld)
    for token, bias in sampling.logit_bias:
        changed[token] += bias
    if sampling.penalizes:
        _penalize(changed, sampling, said or Said(history, prompt_length))
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


def _penalize(logits: Logits, sampling: Sampling, said: Said) -> None:
    if sampling.repetition_penalty != 1.0:
        _penalize_repetition(logits, sampling.repetition_penalty, said.everything)
    if sampling.presence_penalty or sampling.frequency_penalty:
        counts = said.generated.counts
        penalties = sampling.presence_penalty + sampling.frequency_penalty * counts
        logits[said.generated.tokens] -= penalties


def _penalize_repetition(logits: Logits, penalty: float, said: Tally) -> None:
    values = logits[said.tokens]
    logits[said.tokens] = np.where(values > 0, values / penalty, values * penalty)
