"""What a text may be held to, as a caller says it. Knows no tokens and no grammar library."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The languages that a constraint may be written in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"
    """Lark, in llguidance's dialect."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint. Equal ones are compiled once."""

    kind: Kind
    source: str
    """The schema as JSON text, the expression, or the grammar."""
    field: str
    """The request's field that it came in: what a fault is told about."""
