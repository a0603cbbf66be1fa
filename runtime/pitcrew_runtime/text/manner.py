"""How a model writes its messages, as its chat template and its tokenizer tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pitcrew_runtime.text.harmony import CHANNEL, MARKS
from pitcrew_runtime.text.thoughts import CLOSE
from pitcrew_runtime.text.tokenizer import Tokenizer
from pitcrew_runtime.text.tool_calls import CallFormat, format_of


@dataclass(frozen=True, slots=True)
class Manner:
    """What has to be read out of a text."""

    calls: CallFormat | None = None
    """How calls are written that the model chooses to make."""
    thinks: bool = False
    """Answers may begin with thoughts between tags."""
    marks: Mapping[int, str] = field(default_factory=dict)
    """The tokens of harmony with their names; none where a model does not write it."""


PLAIN = Manner()


def manner_of(template: str | None, tokenizer: Tokenizer) -> Manner:
    """What a template asks its model to write."""
    if template is None:
        return PLAIN
    found = {token: name for name in MARKS if (token := tokenizer.id_of(name)) is not None}
    is_harmony = CHANNEL in template and CHANNEL in found.values()
    return Manner(format_of(template), CLOSE in template, found if is_harmony else {})
