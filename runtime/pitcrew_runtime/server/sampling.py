"""From the sampling fields of a body to the engine's terms."""

import secrets
from collections.abc import Collection

from pitcrew_runtime.core.request import Sampling
from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.server.schemas import ChatBody, CompletionBody


def sampling(body: CompletionBody | ChatBody, vocabulary: int, ends: Collection[int]) -> Sampling:
    """OpenAI's defaults; without a seed, one that nobody can guess.

    `ends` are the tokens that end the text, which are withheld until `min_tokens`. Raises
    `InvalidRequest` for a bias of a token that there is not.
    """
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        logit_bias=_biases(body.logit_bias or {}, vocabulary),
        min_tokens=body.min_tokens,
        withheld=tuple(sorted(token for token in ends if token < vocabulary)),
        seed=secrets.randbits(63) if body.seed is None else body.seed,
        logprobs=_logprobs(body),
        prompt_logprobs=body.prompt_logprobs,
    )


def _logprobs(body: CompletionBody | ChatBody) -> int | None:
    """What was asked for, and where the best of several are to be found at least each token's own."""
    if body.wanted_logprobs is None and body.candidates > body.choices:
        return 0
    return body.wanted_logprobs


def _biases(given: dict[str, float], vocabulary: int) -> tuple[tuple[int, float], ...]:
    for token in given:
        # Digits of a bounded number only: int() takes Unicode digits, blanks and underscores too.
        if (
            not (token.isascii() and token.isdigit() and len(token) < 10)
            or int(token) >= vocabulary
        ):
            raise InvalidRequest(
                f"logit_bias: {token[:20]!r} is no token id in [0, {vocabulary})",
                param="logit_bias",
            )
    return tuple((int(token), bias) for token, bias in given.items())
