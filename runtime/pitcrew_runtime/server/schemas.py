"""The bodies of the OpenAI endpoints, as far as this server can honour them.

Three kinds of field: those that are served; those that change nothing in the answer (`user`,
`metadata`, …), which are accepted; and those that would change its meaning, which are accepted only
with the value that asks for nothing, and refused by name otherwise. An unknown field is refused.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256

_SEED_LIMIT = 1 << 63


def _neutral(*allowed: object) -> AfterValidator:
    """Only these values mean "not asked for"."""

    def check(value: object) -> object:
        if value not in allowed:
            raise ValueError("not supported by this server; leave the field out")
        return value

    return AfterValidator(check)


Unsupported = Annotated[Any, _neutral(None, [], {}, False)]
NoPenalty = Annotated[float | None, _neutral(None, 0.0)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
TokenId = Annotated[int, Field(ge=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(_Body):
    """What a stream holds beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SamplingBody(_Body):
    """What both endpoints share."""

    model: Annotated[str, Field(max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Annotated[int, Field(ge=-_SEED_LIMIT, lt=_SEED_LIMIT)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_CHOICES)] | None = None
    ignore_eos: bool = False
    return_token_ids: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    presence_penalty: NoPenalty = None
    frequency_penalty: NoPenalty = None
    logit_bias: Unsupported = None
    min_p: NoPenalty = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed together with stream: true")
        return self

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
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[list[TokenId]], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None

    best_of: Annotated[Any, _neutral(None, 1)] = None
    suffix: Annotated[Any, _neutral(None, "")] = None

    @model_validator(mode="after")
    def _echo_has_no_logprobs(self) -> Self:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo: not supported together with logprobs; ask for one of them")
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        """Alternatives for each token; None for no log probabilities at all."""
        return self.logprobs


class TextPart(_Body):
    """One part of a message's content; only text is served."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: Unsupported = None
    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: Unsupported = None
    tool_call_id: Unsupported = None

    def for_template(self) -> dict[str, str]:
        """What chat templates read."""
        text = self.content if isinstance(self.content, str) else None
        if text is None:
            text = "\n".join(part.text for part in self.content if isinstance(part, TextPart))
        named = {"name": self.name} if self.name is not None else {}
        return {"role": self.role, "content": text, **named}


class ChatBody(SamplingBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    tools: Unsupported = None
    tool_choice: Annotated[Any, _neutral(None, "none", "auto")] = None
    parallel_tool_calls: bool | None = None
    functions: Unsupported = None
    function_call: Annotated[Any, _neutral(None, "none", "auto")] = None
    response_format: Annotated[Any, _neutral(None, {"type": "text"})] = None
    modalities: Annotated[Any, _neutral(None, ["text"])] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only allowed together with logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise ValueError("max_tokens: differs from max_completion_tokens; send one of them")
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        """Alternatives for each token; None for no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None
