"""Files of JSON lines that a spec names: from a volume, or from a URL.

Knows that a line is one JSON object, and nothing of what it holds.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pitcrew_builder.errors import BuildError, InvalidSpec, PromptsUnreachable
from pitcrew_builder.spec import Prompts

T = TypeVar("T")

LIMIT = 64 << 20
"""Bytes of a file of prompts at most."""

TIMEOUT = 30.0
"""Seconds that a server may stay silent."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A file as it was read."""

    where: str
    content: bytes
    numbered: tuple[tuple[int, str], ...]
    """Lines that are not blank, by their number from 1."""


def read_lines(given: Prompts, field: str) -> Lines:
    """The file that a spec's `field` names. Raises `BuildError`: missing, too large, no UTF-8."""
    where = given.path or given.url or ""
    content = _fetch(where, field) if given.url else _load(Path(where), field)
    return Lines(where, content, _lines(content, where))


def parse_lines(file: Lines, parse: Callable[[dict[str, Any]], T], form: str) -> list[T]:
    """What `parse`, which raises `ValueError`, makes of each line's JSON object.

    Raises `InvalidSpec` with the number of a bad line, and `form`: what a good one looks like.
    """
    parsed = []
    for number, line in file.numbered:
        try:
            parsed.append(parse(_object(line)))
        except (ValueError, RecursionError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise InvalidSpec(
                f"{file.where}, line {number}: {problem}; a line looks like {form}"
            ) from None
    return parsed


def _object(line: str) -> dict[str, Any]:
    document = json.loads(line)
    if isinstance(document, dict):
        return document
    raise ValueError("it is no JSON object")


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
    # Slow to import, and most prompts are files.
    import urllib.error
    import urllib.request

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


def _lines(content: bytes, where: str) -> tuple[tuple[int, str], ...]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"{where} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    # Not splitlines(): JSON strings may hold U+2028, which would cut them.
    numbered = enumerate(text.split("\n"), 1)
    return tuple((number, line) for number, line in numbered if line.strip())
