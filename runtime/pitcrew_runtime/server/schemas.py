"""The bodies of the OpenAI endpoints, as far as this server can honour them.

Three kinds of field: those that are served; those that change nothing in the answer (`user`,
`metadata`, …), which are accepted; and those that would change its meaning, which are accepted only
with the value that asks for nothing, and refused by name otherwise. An unknown field is refused.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pitcrew_builder.chat import Options
from pitcrew_runtime.constraints.constraint import Constraint
from pitcrew_runtime.server.constraint_fields import ConstraintBody
from pitcrew_runtime.server.fields import (
    MAX_BIASES,
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_STOPS,
    MAX_TOOLS,
    Always,
    Body,
    Count,
    ModelName,
    Never,
    Stop,
    TemplateOptions,
    TokenId,
    TokenIds,
    Unsupported,
    neutral,
)
from pitcrew_runtime.server.messages import Messages, Tool, ToolChoice
from pitcrew_runtime.server.tools import forced_call

_SEED_LIMIT = 1 << 63

Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(Body):
    """What a stream holds beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """vLLM's: with `include_usage`, each chunk tells what was used so far."""
    include_obfuscation: bool = False


class SamplingBody(ConstraintBody):
    """What both endpoints share."""

    model: ModelName
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    """OpenAI's later name for the same."""
    min_tokens: Count = 0
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)] | None = None
    seed: Annotated[int, Field(ge=-_SEED_LIMIT, lt=_SEED_LIMIT)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_CHOICES)] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    return_token_ids: bool = False
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    timeout: Annotated[float, Field(gt=0, le=86_400)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    request_id: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None

    # What vLLM's clients send by default.
    skip_special_tokens: Always = None
    spaces_between_special_tokens: Always = None
    use_beam_search: Never = None
    length_penalty: Annotated[Any, neutral(None, 1)] = None
    bad_words: Unsupported = None
    allowed_token_ids: Unsupported = None
    truncate_prompt_tokens: Annotated[Any, neutral(None)] = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed together with stream: true")
        return self

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise ValueError("max_tokens: differs from max_completion_tokens; send one of them")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, where the caller says it."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionBody(SamplingBody):
    """`POST /v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    suffix: Annotated[Any, neutral(None, "")] = None
    add_special_tokens: Always = None

    @model_validator(mode="after")
    def _the_best_are_chosen_at_the_end(self) -> Self:
        if self.best_of is None:
            return self
        if self.best_of < self.choices:
            raise ValueError("best_of: less than n; at least as many are needed as are answered")
        if self.stream and self.best_of > self.choices:
            raise ValueError("best_of: which are best is known at the end; leave out stream")
        return self

    @property
    def candidates(self) -> int:
        """Sequences that are generated for each prompt; `choices` of them are answered."""
        return self.best_of or self.choices

    @property
    def prompt_logprobs(self) -> int | None:
        """Alternatives for each token of the prompt; None for no log probabilities of it."""
        return self.logprobs if self.echo else None

    @property
    def wanted_logprobs(self) -> int | None:
        """Alternatives for each token; None for no log probabilities at all."""
        return self.logprobs


class ChatBody(SamplingBody):
    """`POST /v1/chat/completions`."""

    messages: Messages
    max_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Count, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None

    functions: Unsupported = None
    function_call: Annotated[Any, neutral(None, "none", "auto")] = None
    modalities: Annotated[Any, neutral(None, ["text"])] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    verbosity: Annotated[Any, neutral(None, "medium")] = None
    moderation: Unsupported = None
    web_search_options: Unsupported = None
    add_generation_prompt: Always = None
    add_special_tokens: Never = None
    continue_final_message: Never = None
    echo: Never = None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only allowed together with logprobs: true")
        return self

    @model_validator(mode="after")
    def _the_choice_is_among_the_tools(self) -> Self:
        choice, names = self.tool_choice, [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools: two functions have the same name; rename one")
        if choice in (None, "none", "auto"):
            return self
        if not names:
            raise ValueError("tool_choice: there are no tools to choose from; send tools")
        if not isinstance(choice, str) and choice.function.name not in names:
            raise ValueError(f"tool_choice: {choice.function.name!r} is not among the tools")
        if self.given_constraints():
            raise ValueError("tool_choice: a forced call cannot be constrained otherwise too")
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        """Alternatives for each token; None for no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def candidates(self) -> int:
        """Sequences that are generated; all are answered."""
        return self.choices

    @property
    def prompt_logprobs(self) -> None:
        """A chat does not repeat its prompt."""
        return None

    @property
    def template_options(self) -> Options:
        """What the chat template is told beside messages and tools."""
        effort = (
            {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        )
        return {**(self.chat_template_kwargs or {}), **effort}

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else list(self.tools or ())

    @property
    def constraint(self) -> Constraint | None:
        """What the text is held to: the caller's constraint, or a call that is forced."""
        call = forced_call(self.offered, self.tool_choice, self.parallel_tool_calls is not False)
        return call or super().constraint
