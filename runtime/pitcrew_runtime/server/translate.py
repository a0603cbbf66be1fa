"""From a validated body to prompts for the engine: token ids, limits, sampling."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.chat import Options
from pitcrew_builder.manifest import ModelFacts
from pitcrew_runtime.constraints.compiler import Compiled, Compiler
from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.frontend import Prompt
from pitcrew_runtime.server.fields import MAX_CHOICES
from pitcrew_runtime.server.messages import Message, Tool
from pitcrew_runtime.server.sampling import sampling
from pitcrew_runtime.server.schemas import ChatBody, CompletionBody
from pitcrew_runtime.server.tools import call_reader
from pitcrew_runtime.text.harmony import HarmonyMessages
from pitcrew_runtime.text.manner import PLAIN, Manner
from pitcrew_runtime.text.reading import Reader
from pitcrew_runtime.text.template import ChatTemplate
from pitcrew_runtime.text.thoughts import OPEN, Thoughts
from pitcrew_runtime.text.tokenizer import Tokenizer

DEFAULT_COMPLETION_TOKENS = 16
_CHARACTERS_A_TOKEN = 8
"""More than texts have that are worth tokenizing at once."""
_PIECE = 1 << 16
_TAIL = 16
"""Tokens of a prompt that hold an opening tag and the white space behind it."""


@dataclass(frozen=True, slots=True)
class Language:
    """What stands between text and the engine. Without a tokenizer there is only the model."""

    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    model: ModelFacts
    max_length: int
    """Prompt and output tokens of one sequence."""
    compiler: Compiler | None = None
    manner: Manner = PLAIN
    """How the model writes its messages."""

    async def compiled(self, body: CompletionBody | ChatBody) -> Compiled | None:
        """What the text is held to; raises `InvalidRequest`."""
        constraint = body.constraint
        if constraint is None:
            return None
        if self.compiler is None:
            raise InvalidRequest(
                f"{constraint.field}: this engine has no tokenizer, so its text cannot be "
                "constrained; leave the field out",
                param=constraint.field,
            )
        if body.ignore_eos:
            raise InvalidRequest(
                f"ignore_eos: a text held to {constraint.field} ends when it is complete; send one "
                "of them",
                param="ignore_eos",
            )
        return await self.compiler.compile(constraint)

    def completion(self, body: CompletionBody, held_to: Compiled | None) -> list[Prompt]:
        """One prompt for each choice, in the order of their indices."""
        prompts = [self._ids(prompt) for prompt in _prompts(body)]
        if len(prompts) * body.candidates > MAX_CHOICES:
            raise InvalidRequest(
                f"n: {len(prompts)} prompts with {body.candidates} choices each are more than "
                f"{MAX_CHOICES} sequences; send fewer at a time",
                param="n",
            )
        default = body.limit is None
        wanted = DEFAULT_COMPLETION_TOKENS if body.limit is None else body.limit
        return [
            one for ids in prompts for one in self._choices(body, ids, wanted, default, held_to)
        ]

    def chat(self, body: ChatBody, held_to: Compiled | None) -> list[Prompt]:
        """One prompt for each choice. Without a limit, the answer may fill the sequence."""
        ids = self.rendered(body.messages, body.offered, body.template_options)
        wanted = body.limit
        return self._choices(body, ids, wanted or self.max_length, wanted is None, held_to)

    def rendered(
        self, messages: Sequence[Message], tools: Sequence[Tool], options: Options
    ) -> tuple[int, ...]:
        """The ids of a chat's prompt; raises `InvalidRequest`."""
        if self.tokenizer is None or self.template is None:
            raise InvalidRequest(
                "this engine has no chat template; use /v1/completions", param="messages"
            )
        if tools and not self.template.has_tools:
            raise InvalidRequest(
                "tools: this model's chat template has no place for them; leave the field out",
                param="tools",
            )
        text = self.template.render(
            [message.for_template() for message in messages],
            [tool.for_template() for tool in tools],
            options,
        )
        self._check_length(text, self.tokenizer, "messages")
        return tuple(self.tokenizer.encode_rendered(text))

    def reader(self, body: ChatBody, prompt: Prompt) -> Reader:
        """Tells thoughts, answer and calls apart in one choice of a chat.

        A text that is held to something has no thoughts.
        """
        parallel = body.parallel_tool_calls is not False
        calls = call_reader(body.offered, body.tool_choice, parallel, self.manner)
        if prompt.sampling.guide is not None:
            return calls
        if self.manner.is_harmony:
            return HarmonyMessages(self.manner.marks, bool(body.offered), parallel)
        return Thoughts(calls, self._leaves_thinking(prompt)) if self.manner.thinks else calls

    def _leaves_thinking(self, prompt: Prompt) -> bool:
        """Whether the template has opened the thoughts."""
        if self.tokenizer is None:
            return False
        tail = self.tokenizer.decode(prompt.tokens[-_TAIL:], special=True)
        return tail.rstrip().endswith(OPEN)

    def _ids(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InvalidRequest(
                    "prompt: this engine has no tokenizer; send token ids", param="prompt"
                )
            self._check_length(prompt, self.tokenizer, "prompt")
            return tuple(self.tokenizer.encode(prompt))
        self.check_ids(prompt, "prompt")
        return tuple(prompt)

    def _check_length(self, text: str, tokenizer: Tokenizer, field: str) -> None:
        """Refuse what can never fit before all of it is tokenized: a few megabytes take seconds and
        gigabytes.

        Twice what would fit, for tokenizers that shorten a text first.
        """
        most = 2 * self.max_length * tokenizer.longest
        if len(text) > most:
            raise InvalidRequest(
                f"{field}: {len(text)} characters are more than {self.max_length} tokens can hold; "
                "shorten the prompt",
                param=field,
            )
        if len(text) > _CHARACTERS_A_TOKEN * self.max_length:
            self._check_pieces(text, tokenizer, field)

    def _check_pieces(self, text: str, tokenizer: Tokenizer, field: str) -> None:
        """In pieces a text has some tokens more than as a whole, but not twice as many."""
        count = 0
        for start in range(0, len(text), _PIECE):
            count += len(tokenizer.encode_rendered(text[start : start + _PIECE]))
            if count > 2 * self.max_length:
                raise InvalidRequest(
                    f"{field}: the first {min(start + _PIECE, len(text))} characters are {count} tokens, but a "
                    f"sequence may have {self.max_length}; shorten the prompt",
                    param=field,
                )

    def check_ids(self, tokens: Sequence[int], field: str) -> None:
        """Raises `InvalidRequest` for an id that the model does not have."""
        for token in tokens:
            if not 0 <= token < self.model.vocab_size:
                raise InvalidRequest(
                    f"{field}: token id {token} is not in [0, {self.model.vocab_size})",
                    param=field,
                )

    def _choices(
        self,
        body: CompletionBody | ChatBody,
        ids: tuple[int, ...],
        wanted: int,
        default: bool,
        held_to: Compiled | None,
    ) -> list[Prompt]:
        self._check_text_is_asked_of_a_tokenizer(body)
        room = self._room(ids, min(wanted, 1))
        if wanted > room and not default:
            raise InvalidRequest(
                f"max_tokens: {len(ids)} prompt tokens and {wanted} to generate make "
                f"{len(ids) + wanted}, but a sequence may have {self.max_length}; at most {room} "
                "can be generated here",
                param="max_tokens",
            )
        count = min(wanted, room)
        if body.min_tokens > count:
            raise InvalidRequest(
                f"min_tokens: {body.min_tokens} are more than the {count} that may be generated",
                param="min_tokens",
            )
        stops = frozenset(() if body.ignore_eos else self.model.eos_token_ids)
        stops |= frozenset(body.stop_token_ids or ())
        common = sampling(body, self.model.vocab_size, stops)
        return [
            Prompt(
                ids,
                count,
                replace(
                    common, seed=common.seed + choice, guide=held_to.guide() if held_to else None
                ),
                stops,
            )
            for choice in range(body.candidates)
        ]

    def _check_text_is_asked_of_a_tokenizer(self, body: CompletionBody | ChatBody) -> None:
        if self.tokenizer is not None:
            return
        for field in ("stop", "echo"):
            scored = field == "echo" and body.prompt_logprobs is not None
            if getattr(body, field, None) and not scored:
                raise InvalidRequest(
                    f"{field}: this engine has no tokenizer, only token ids are served; use "
                    "stop_token_ids and return_token_ids",
                    param=field,
                )

    def _room(self, ids: Sequence[int], least: int) -> int:
        """Tokens that can be generated after a prompt; raises `InvalidRequest` if fewer than `least`."""
        if not ids:
            raise InvalidRequest("prompt: there is no token in it; send some text", param="prompt")
        room = self.max_length - len(ids)
        if room < least:
            raise InvalidRequest(
                f"the prompt has {len(ids)} tokens, but a sequence may have {self.max_length} and "
                f"{least} must be generated at least; shorten the prompt",
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
