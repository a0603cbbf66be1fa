"""From a validated body to prompts for the engine: token ids, limits, sampling."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.manifest import ModelFacts
from pitcrew_runtime.core.request import Sampling
from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.frontend import Prompt
from pitcrew_runtime.server.schemas import MAX_CHOICES, ChatBody, CompletionBody
from pitcrew_runtime.text.template import ChatTemplate
from pitcrew_runtime.text.tokenizer import Tokenizer

DEFAULT_COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Language:
    """What stands between text and the engine. An engine may lack either of the first two."""

    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    model: ModelFacts
    max_length: int
    """Prompt and output tokens of one sequence."""

    def completion(self, body: CompletionBody) -> list[Prompt]:
        """One prompt for each choice, in the order of their indices."""
        prompts = [self._ids(prompt) for prompt in _prompts(body)]
        if len(prompts) * (body.n or 1) > MAX_CHOICES:
            raise InvalidRequest(
                f"n: {len(prompts)} prompts with {body.n} choices each are more than "
                f"{MAX_CHOICES} sequences; send fewer at a time",
                param="n",
            )
        wanted = body.max_tokens or DEFAULT_COMPLETION_TOKENS
        default = body.max_tokens is None
        return [one for ids in prompts for one in self._choices(body, ids, wanted, default)]

    def chat(self, body: ChatBody) -> list[Prompt]:
        """One prompt for each choice. Without a limit, the answer may fill the sequence."""
        if self.tokenizer is None or self.template is None:
            raise InvalidRequest(
                "this engine has no chat template; use /v1/completions", param="messages"
            )
        text = self.template.render([message.for_template() for message in body.messages])
        ids = tuple(self.tokenizer.encode_rendered(text))
        wanted = body.max_completion_tokens or body.max_tokens
        return self._choices(body, ids, wanted or self.max_length, wanted is None)

    def _ids(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InvalidRequest(
                    "prompt: this engine has no tokenizer; send token ids", param="prompt"
                )
            return tuple(self.tokenizer.encode(prompt))
        for token in prompt:
            if token >= self.model.vocab_size:
                raise InvalidRequest(
                    f"prompt: token id {token} is not in [0, {self.model.vocab_size})",
                    param="prompt",
                )
        return tuple(prompt)

    def _choices(
        self, body: CompletionBody | ChatBody, ids: tuple[int, ...], wanted: int, default: bool
    ) -> list[Prompt]:
        self._check_text_is_asked_of_a_tokenizer(body)
        room = self._room(ids)
        if wanted > room and not default:
            raise InvalidRequest(
                f"max_tokens: {len(ids)} prompt tokens and {wanted} to generate make "
                f"{len(ids) + wanted}, but a sequence may have {self.max_length}; at most {room} "
                "can be generated here",
                param="max_tokens",
            )
        sampling = _sampling(body)
        stops = frozenset(() if body.ignore_eos else self.model.eos_token_ids)
        stops |= frozenset(body.stop_token_ids or ())
        return [
            Prompt(ids, min(wanted, room), replace(sampling, seed=sampling.seed + choice), stops)
            for choice in range(body.n or 1)
        ]

    def _check_text_is_asked_of_a_tokenizer(self, body: CompletionBody | ChatBody) -> None:
        if self.tokenizer is not None:
            return
        for field in ("stop", "echo"):
            if getattr(body, field, None):
                raise InvalidRequest(
                    f"{field}: this engine has no tokenizer, only token ids are served; use "
                    "stop_token_ids and return_token_ids",
                    param=field,
                )

    def _room(self, ids: Sequence[int]) -> int:
        """Tokens that can be generated after a prompt."""
        if not ids:
            raise InvalidRequest("prompt: there is no token in it; send some text", param="prompt")
        room = self.max_length - len(ids)
        if room < 1:
            raise InvalidRequest(
                f"the prompt has {len(ids)} tokens, but a sequence may have {self.max_length} and "
                "at least one must be generated; shorten the prompt",
                param="prompt",
            )
        return room


def _prompts(body: CompletionBody) -> list[str | Sequence[int]]:
    """The four shapes of `prompt` as a list of texts or token lists."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    texts: list[str | Sequence[int]] = []
    ids: list[int] = []
    for entry in prompt:
        if isinstance(entry, int):
            ids.append(entry)
        else:
            texts.append(entry)
    return texts or [ids]


def _sampling(body: CompletionBody | ChatBody) -> Sampling:
    """OpenAI's defaults; without a seed, one that nobody can guess."""
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=secrets.randbits(63) if body.seed is None else body.seed,
        logprobs=body.wanted_logprobs,
    )
