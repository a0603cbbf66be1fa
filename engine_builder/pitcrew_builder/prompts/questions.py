"""Reading questions: prompts with the answers that users expect.

A line holds `prompt` or `messages`, as a client would send them, and `reference` or `references`.
Repeated lines count once.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pitcrew_builder.checkpoint.tolerant import Tolerant
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.prompts.lines import parse_lines, read_lines
from pitcrew_builder.prompts.source import Message, Prompt
from pitcrew_builder.spec import Task

ASKED = 64
"""Questions that are used where the spec does not say."""

_FORM = '{"prompt": "…", "reference": "…"} or {"messages": […], "references": ["…", "…"]}'


@dataclass(frozen=True, slots=True)
class Question:
    """One line: what is asked, and every answer that is right."""

    prompt: Prompt
    references: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Orders and tells questions apart by their content alone."""
        content = json.dumps([self.prompt.digest, self.references])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Paper:
    """The questions of one task."""

    task: Task
    questions: tuple[Question, ...]
    """Distinct, in an order that depends on their content alone."""

    @property
    def digest(self) -> str:
        """Stands for everything that decides the answers and their score; not for thresholds."""
        task = self.task
        rules = [task.metric.value, task.max_tokens, task.stop]
        content = json.dumps([rules, [question.digest for question in self.questions]])
        return hashlib.sha256(content.encode()).hexdigest()


class _Line(Tolerant):
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    reference: str | None = None
    references: tuple[str, ...] = ()


def read_paper(task: Task, field: str) -> Paper:
    """The questions of the task in a spec's `field`. Raises `BuildError`: as `read_lines`, empty."""
    file = read_lines(task.prompts, field)
    distinct = {found.digest: found for found in parse_lines(file, _question, _FORM)}
    if not distinct:
        raise InvalidSpec(
            f"{field}: {file.where} holds no question; give JSON lines such as {_FORM}"
        )
    chosen = sorted(distinct)[: task.prompts.samples or ASKED]
    return Paper(task, tuple(distinct[digest] for digest in chosen))


def _question(document: dict[str, Any]) -> Question:
    found = _Line.model_validate(document)
    if not (found.messages or (found.prompt or "").strip()):
        raise ValueError("it has neither prompt nor messages")
    references = found.references if found.reference is None else (found.reference,)
    if not references or not all(text.strip() for text in references):
        raise ValueError("it has no reference, or one without a word")
    prompt = Prompt(messages=found.messages) if found.messages else Prompt(text=found.prompt or "")
    return Question(prompt, references)
