"""How a model writes its messages, as its chat template and its tokenizer tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pitcrew_runtime.text.calls.formats import CallFormat, format_of, marks_of
from pitcrew_runtime.text.harmony import CHANNEL, MARKS
from pitcrew_runtime.text.thoughts import CLOSE
from pitcrew_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Manner:
    """What has to be read out of a text."""

    calls: CallFormat | None = None
    """How calls are written that the model chooses to make."""
    thinks: bool = False
    """Answers may begin with thoughts between tags."""
    is_harmony: bool = False
    """Messages have headers and channels."""
    marks: Mapping[int, str] = field(default_factory=dict)
    """The tokens that divide a text, of harmony or of calls, with their names."""


PLAIN = Manner()


def manner_of(template: str | None, tokenizer: Tokenizer) -> Manner:
    """What a template asks its model to write."""
    if template is None:
        return PLAIN
    found = {token: name for name in MARKS if (token := tokenizer.id_of(name)) is not None}
    if CHANNEL in template and CHANNEL in found.values():
        return Manner(is_harmony=True, marks=found)
    calls = format_of(template, tokenizer)
    return Manner(calls, CLOSE in template, marks=marks_of(calls, tokenizer))
