"""What pydantic finds wrong with a document, in words for people."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

MOST = 5
"""Faults that are told of one document."""


def problems(error: ValidationError) -> str:
    """The faults, each behind the field that has it; those of whole documents name theirs."""
    return "; ".join(_told(item) for item in error.errors(include_url=False)[:MOST])


def _told(item: ErrorDetails) -> str:
    where = ".".join(map(str, item["loc"]))
    what = item["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
