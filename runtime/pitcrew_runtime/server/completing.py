"""From a completion's body to its prompts and choices, for every endpoint that completes text."""

import asyncio

from pitcrew_runtime.core.request import Sampled
from pitcrew_runtime.frontend import Prompt
from pitcrew_runtime.server.choice import NO_ECHO, Choice, Echo, Ending
from pitcrew_runtime.server.schemas import ChatBody, CompletionBody
from pitcrew_runtime.server.translate import Language

_INLINE_BYTES = 1 << 14
"""Smaller bodies are tokenized on the event loop; larger ones would hold it up."""


async def completion(
    language: Language, body: CompletionBody, size: int
) -> tuple[list[Prompt], list[Choice]]:
    """What to submit, and what makes text of the news; `size` is the body's, in bytes.

    Raises `InvalidRequest`.
    """
    held_to = await language.compiled(body)
    if size <= _INLINE_BYTES:
        prompts = language.completion(body, held_to)
    else:
        prompts = await asyncio.to_thread(language.completion, body, held_to)
    return prompts, [
        Choice(
            index,
            language.tokenizer,
            ending(body),
            _echo(language, prompt) if body.echo else NO_ECHO,
            prompt.sampling.guide,
        )
        for index, prompt in enumerate(prompts)
    ]


def _echo(language: Language, prompt: Prompt) -> Echo:
    text = language.tokenizer.decode(prompt.tokens) if language.tokenizer else ""
    scored = prompt.sampling.prompt_logprobs is not None
    return Echo(text, (Sampled(prompt.tokens[0]),) if scored else ())


def ending(body: CompletionBody | ChatBody) -> Ending:
    """What ends the text of a choice beside its tokens."""
    return Ending(body.stops, body.include_stop_str_in_output, body.min_tokens)
