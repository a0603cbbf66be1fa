"""What every document that leaves a process has in common."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """Frozen, closed, camelCase on the wire: the base of every document that leaves a process."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        defer_build=True,
    )


def is_none(value: object) -> bool:
    """For `exclude_if`: a field that is not set stays out of the document."""
    return value is None


def is_false(value: object) -> bool:
    """For `exclude_if`: what is not the case stays out of the document."""
    return value is False


def is_empty(value: tuple[object, ...]) -> bool:
    """For `exclude_if`: an empty list stays out of the document."""
    return not value
