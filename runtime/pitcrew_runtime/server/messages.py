"""The parts of a chat: messages, tools, and the calls that were made of them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import from_json

from pitcrew_runtime.server.fields import FIRST_FAULT, Body, Unsupported

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class TextPart(Body):
    """One part of a message's content; only text is served."""

    type: Literal["text"]
    text: str


class FunctionCall(Body):
    """What an assistant called."""

    name: FunctionName
    arguments: str

    @property
    def parsed(self) -> dict[str, Any]:
        """The arguments as an object; raises `ValueError`."""
        if isinstance(found := from_json(self.arguments or "{}", allow_inf_nan=False), dict):
            return found
        raise ValueError(f"{self.arguments[:40]!r} is no object")


class ToolCall(Body):
    """One call of an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    index: int | None = None
    function: FunctionCall

    @model_validator(mode="after")
    def _arguments_are_an_object(self) -> Self:
        try:
            _ = self.function.parsed
        except ValueError as error:
            raise ValueError(f"arguments: not a JSON object: {error}") from None
        return self

    def for_template(self) -> dict[str, Any]:
        """Templates read the arguments as an object, not as text."""
        function = {"name": self.function.name, "arguments": self.function.parsed}
        return {"id": self.id, "type": self.type, "function": function}


class Message(Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], FIRST_FAULT] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], FIRST_FAULT] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: Unsupported = None
    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None

    @model_validator(mode="after")
    def _fields_suit_the_role(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content: required, but for an assistant's tool_calls")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls: an assistant calls tools, not the role {self.role!r}")
        if self.tool_call_id is not None and self.role != "tool":
            raise ValueError(f"tool_call_id: for the role 'tool', not for {self.role!r}")
        if self.reasoning_content is not None and self.role != "assistant":
            raise ValueError(f"reasoning_content: an assistant's, not of the role {self.role!r}")
        return self

    def for_template(self) -> dict[str, Any]:
        """What chat templates read."""
        message: dict[str, Any] = {"role": self.role, "content": self._text()}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.reasoning_content is not None:
            # Qwen's templates know it by the first name, GPT-OSS's by the second.
            message["reasoning_content"] = message["thinking"] = self.reasoning_content
        return message

    def _text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content)


Messages = Annotated[list[Message], Field(min_length=1), FIRST_FAULT]


class Function(Body):
    """A function that may be called."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool that the model is told of."""

    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """What chat templates read."""
        found: dict[str, Any] = {"name": self.function.name}
        if self.function.description is not None:
            found["description"] = self.function.description
        if self.function.parameters is not None:
            found["parameters"] = self.function.parameters
        return {"type": self.type, "function": found}


class NamedFunction(Body):
    """A function by its name."""

    name: FunctionName


class NamedTool(Body):
    """A tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool
