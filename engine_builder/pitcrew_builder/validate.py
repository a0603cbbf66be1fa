"""Proof before publish: the graph loads, computes numbers, and its paged cache changes nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pitcrew_builder.context_runner import ContextRunner
from pitcrew_builder.errors import CheckpointCorrupt, ValidationFailed
from pitcrew_builder.manifest import Canary, ModelFacts
from pitcrew_builder.paged_runner import Floats, PagedRunner

PROMPT_TEXT = "In the beginning God created the heaven and the earth."
PROMPT_TOKENS = 8
NEW_TOKENS = 16
TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the largest logit (or absolute, below 1)."""

ROUNDED_TOLERANCE = 1e-1
"""The same where activations are rounded: a last bit that differs may move one by a whole step."""

CLEAR_MARGIN = 1e-3
"""A canary stops before a token that wins by less: there, another CPU may rightly differ."""

DOUBT = 4
"""It also stops where the margin is less than so many times the difference that was measured."""


def canary_prompt(facts: ModelFacts, tokenizer: Path, limit: int) -> list[int]:
    """Eight tokens or fewer: real text where there is a tokenizer, else ids spread over the
    vocabulary. `limit` bounds the prompt's length. Raises `CheckpointCorrupt` for a tokenizer that
    cannot be read or does not fit the vocabulary.
    """
    spread = [1 + index * (facts.vocab_size - 2) // PROMPT_TOKENS for index in range(PROMPT_TOKENS)]
    ids = _encode(tokenizer) if tokenizer.exists() else spread
    if facts.bos_token_id is not None and ids[:1] != [facts.bos_token_id]:
        ids = [facts.bos_token_id, *ids]
    prompt = (ids or spread)[: min(PROMPT_TOKENS, limit)]
    if any(not 0 <= token < facts.vocab_size for token in prompt):
        raise CheckpointCorrupt(
            f"token {max(prompt)} lies outside of config.json's vocab_size {facts.vocab_size} "
            f"(bos_token_id is {facts.bos_token_id}, the rest comes from tokenizer.json); take all "
            f"files from the same checkpoint"
        )
    return prompt


def prove(
    runner: PagedRunner,
    prompt: list[int],
    count: int,
    advance: Callable[[float], None],
    tolerance: float = TOLERANCE,
    lead: float = 0.0,
    served: ContextRunner | None = None,
) -> Canary:
    """Continue `prompt` greedily by `count` tokens, and check that computing the same text at once
    gives the same logits, up to `tolerance`, as does the form that is `served` where that is
    another. The canary holds tokens that win by `lead` times the largest logit at least. Raises
    `ValidationFailed`.
    """
    steps = [runner.extend(prompt)]
    tokens: list[int] = []
    for index in range(count):
        tokens.append(int(steps[-1][-1].argmax()))
        steps.append(runner.extend(tokens[-1:]))
        advance(index / count)
    runner.reset()
    whole, stepwise = runner.extend(prompt + tokens), np.concatenate(steps)
    difference = _check(whole, stepwise, tolerance, "the paged cache")
    if served is not None:
        again = [served.extend(prompt), *(served.extend([token]) for token in tokens)]
        other = _check(whole, np.concatenate(again), tolerance, "contexts (contiguous.onnx)")
        difference = max(difference, other)
    margin = max(CLEAR_MARGIN, DOUBT * difference, lead * float(np.abs(whole).max()))
    sure = _clear_tokens(whole[len(prompt) - 1 : -1], margin)
    return Canary(prompt=tuple(prompt), continuation=tuple(tokens[:sure]))


def _encode(file: Path) -> list[int]:
    from tokenizers import Tokenizer

    try:
        ids: list[int] = Tokenizer.from_file(str(file)).encode(PROMPT_TEXT).ids
    except Exception as error:
        # The library raises bare exceptions.
        raise CheckpointCorrupt(f"{file.name} cannot be read: {error}; copy it again") from error
    return ids


def _check(whole: Floats, stepwise: Floats, tolerance: float, cache: str) -> float:
    """The largest difference of a logit. Raises `ValidationFailed` where it is too large."""
    if not np.isfinite(whole).all() or not np.isfinite(stepwise).all():
        raise ValidationFailed(
            "the engine computes NaN or infinite logits; the checkpoint's weights overflow in the "
            "chosen precision, or do not belong to its config.json"
        )
    difference = float(np.abs(whole - stepwise).max())
    allowed = tolerance * max(1.0, float(np.abs(whole).max()))
    if difference > allowed:
        raise ValidationFailed(
            f"decoding over {cache} differs from computing at once by {difference:.2e} "
            f"(allowed {allowed:.2e}); please report this as a bug"
        )
    return difference


def _clear_tokens(logits: Floats, margin: float) -> int:
    """How many of the greedy choices [n, vocab], from the first, are no near ties."""
    best = np.partition(logits, -2, axis=-1)[:, -2:]
    unclear = np.flatnonzero(best[:, 1] - best[:, 0] < margin)
    return int(unclear[0]) if unclear.size else len(logits)
