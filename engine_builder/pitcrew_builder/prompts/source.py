"""Reading prompts.

A line holds `text`; or `prompt`, with or without `completion`; or `messages`, as chat clients
send them. Repeated texts count once.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from pitcrew_builder.checkpoint.tolerant import Tolerant
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.prompts.lines import parse_lines, read_lines
from pitcrew_builder.spec import Prompts

_FORM = '{"text": "…"}, {"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'


class Message(Tolerant):
    """One turn of a chat."""

    role: str = Field(min_length=1, max_length=64)
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line: a plain text, or the turns of a chat."""

    text: str = ""
    messages: tuple[Message, ...] = ()

    @property
    def digest(self) -> str:
        """Orders and tells prompts apart by their content alone."""
        turns = [(turn.role, turn.content) for turn in self.messages]
        return hashlib.sha256(json.dumps([self.text, turns]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file of prompts as it was read."""

    where: str
    sha256: str
    lines: int
    prompts: tuple[Prompt, ...]
    """Distinct, in an order that depends on their content alone."""

    @property
    def repeated(self) -> float:
        """The share of lines that repeat another."""
        return 1 - len(self.prompts) / self.lines


class _Line(Tolerant):
    text: str | None = None
    prompt: str | None = None
    completion: str = ""
    messages: tuple[Message, ...] | None = None


def read(given: Prompts, field: str) -> PromptFile:
    """The prompts that a spec's `field` names. Raises `BuildError`: missing, malformed, empty."""
    file = read_lines(given, field)
    parsed = parse_lines(file, _prompt, _FORM)
    if not parsed:
        raise InvalidSpec(
            f"{field}: {file.where} holds no prompt; give a JSONL file of the texts that users send"
        )
    distinct = {prompt.digest: prompt for prompt in parsed}
    ordered = tuple(distinct[digest] for digest in sorted(distinct))
    sha256 = hashlib.sha256(file.content).hexdigest()
    return PromptFile(file.where, sha256, len(parsed), ordered)


def _prompt(document: dict[str, Any]) -> Prompt:
    found = _Line.model_validate(document)
    if found.messages:
        return Prompt(messages=found.messages)
    text = found.text if found.text is not None else found.prompt
    if text is None or not (text + found.completion).strip():
        raise ValueError("it has none of text, prompt and messages")
    return Prompt(text=text if found.text is not None else text + found.completion)
