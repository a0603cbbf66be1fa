"""Reading prompts: JSON lines from a file on a volume, or from a URL.

A line holds `text`; or `prompt`, with or without `completion`; or `messages`, as chat clients
send them. Repeated texts count once.
"""

import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pitcrew_builder.checkpoint.tolerant import Tolerant
from pitcrew_builder.errors import BuildError, InvalidSpec, PromptsUnreachable
from pitcrew_builder.spec import Prompts

LIMIT = 64 << 20
"""Bytes of a file of prompts at most."""

TIMEOUT = 30.0
"""Seconds that a server may stay silent."""


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
    where = given.path or given.url or ""
    content = _fetch(where, field) if given.url else _load(Path(where), field)
    parsed = [_parse(line, number, where) for number, line in _lines(content, where)]
    if not parsed:
        raise InvalidSpec(
            f"{field}: {where} holds no prompt; give a JSONL file of the texts that users send"
        )
    distinct = {prompt.digest: prompt for prompt in parsed}
    ordered = tuple(distinct[digest] for digest in sorted(distinct))
    return PromptFile(where, hashlib.sha256(content).hexdigest(), len(parsed), ordered)


def _load(path: Path, field: str) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(LIMIT + 1)
    except OSError as error:
        raise InvalidSpec(
            f"{field}.path: {path} cannot be read ({error.strerror}); check the path, and that its "
            f"volume is mounted"
        ) from error
    return _bounded(content, str(path), field)


def _fetch(url: str, field: str) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": "application/jsonl, */*"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return _bounded(answer.read(LIMIT + 1), url, field)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(error.code, url, field) from error
    except OSError as error:
        raise PromptsUnreachable(
            f"{field}.url: {url} did not answer ({error}); check the address and the network, or "
            f"put the file on a volume and give its path"
        ) from error


def _refused(status: int, url: str, field: str) -> BuildError:
    kind = PromptsUnreachable if status >= 500 or status == 429 else InvalidSpec
    return kind(f"{field}.url: {url} answered {status}; check the address")


def _bounded(content: bytes, where: str, field: str) -> bytes:
    if len(content) > LIMIT:
        raise InvalidSpec(
            f"{field}: {where} is larger than {LIMIT >> 20} MiB; a few hundred prompts are enough"
        )
    return content


def _lines(content: bytes, where: str) -> list[tuple[int, str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"{where} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    # Not splitlines(): JSON strings may hold U+2028, which would cut them.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse(line: str, number: int, where: str) -> Prompt:
    try:
        found = _Line.model_validate(_object(line))
    except (ValueError, RecursionError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise _malformed(number, where, problem) from None
    if found.messages:
        return Prompt(messages=found.messages)
    text = found.text if found.text is not None else found.prompt
    if text is None or not (text + found.completion).strip():
        raise _malformed(number, where, "it has none of text, prompt and messages")
    return Prompt(text=text if found.text is not None else text + found.completion)


def _object(line: str) -> dict[str, Any]:
    document = json.loads(line)
    if isinstance(document, dict):
        return document
    raise ValueError("it is no JSON object")


def _malformed(number: int, where: str, problem: str) -> InvalidSpec:
    return InvalidSpec(
        f'{where}, line {number}: {problem}; a line looks like {{"text": "…"}}, '
        f'{{"prompt": "…"}} or {{"messages": [{{"role": "user", "content": "…"}}]}}'
    )
