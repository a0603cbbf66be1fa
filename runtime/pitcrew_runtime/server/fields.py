"""What the fields of all bodies are made of."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_BIASES = 1024
MAX_TOOLS = 128
MAX_OPTIONS = 16


class Body(BaseModel):
    """Strict: a wrong type or an unknown field is a fault of the request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def neutral(*allowed: object) -> AfterValidator:
    """Only these values mean "not asked for"."""

    def check(value: object) -> object:
        if value not in allowed:
            raise ValueError("not supported by this server; leave the field out")
        return value

    return AfterValidator(check)


def _short(value: int) -> int:
    """A number that an error may tell: Python writes none of more than 4,300 digits."""
    if value >= 1 << 128:
        raise ValueError("a number of so many digits is never right; send a smaller one")
    return value


Always = Annotated[bool | None, neutral(None, True)]
Never = Annotated[bool | None, neutral(None, False)]
Unsupported = Annotated[Any, neutral(None, [], {}, False)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Count = Annotated[int, Field(ge=0), AfterValidator(_short)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
FIRST_FAULT = Field(fail_fast=True)
"""For lists of any length: a fault for each of a million elements would take minutes to write."""
TokenIds = Annotated[list[TokenId], FIRST_FAULT]
TemplateOptions = Annotated[
    dict[str, Annotated[str, Field(max_length=1024)] | int | float | bool | None],
    Field(max_length=MAX_OPTIONS),
]
ModelName = Annotated[str, Field(max_length=256)]
