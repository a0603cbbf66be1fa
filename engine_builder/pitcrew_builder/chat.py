"""Chats as text, by a checkpoint's own template: for calibration and for serving alike.

Templates are not trusted. The environment is the one that they are written for (transformers'):
immutable sandbox, trimmed blocks, loop controls, a JSON filter that neither escapes HTML nor sorts
keys, and `raise_exception` and `strftime_now`. Rendering is bounded in time, in output, and in what
one expression can blow up.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

MAX_CHARACTERS = 4_000_000
MAX_SECONDS = 5.0
_MAX_OPERAND = 1_000_000

Clock = Callable[[], float]
Options = Mapping[str, str | int | float | bool | None]
"""What a template reads beside the messages, by its names."""
NO_OPTIONS: Options = {}
_OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt", "range"})
"""Names that a template reads and nobody else may give."""
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


class TemplateLimit(TemplateError):
    """The template ran too long or grew too large."""


class _GenerationTag(Extension):
    """`{% generation %}` marks what an assistant said, for training; here its body is just text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Refuse products that only serve to exhaust memory."""
        if operator == "**" or _size(left) * _size(right) > _MAX_OPERAND:
            raise SecurityError(f"the operands of {operator} are too large")
        return super().call_binop(context, operator, left, right)


class Template:
    """One compiled template. Thread-safe."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], clock: Clock = time.monotonic
    ) -> None:
        """Raises `TemplateError` where the source is no template."""
        self._special = dict(special_tokens)
        self._clock = clock
        environment = _environment()
        self._template = environment.from_string(source)
        read = meta.find_undeclared_variables(environment.parse(source))
        self.reads_tools = "tools" in read
        given = _OURS | self._special.keys() | environment.globals.keys()
        self.options = frozenset(read - given)
        """Names of what it reads beside the messages, such as `enable_thinking`."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        options: Options = NO_OPTIONS,
        *,
        to_answer: bool = True,
    ) -> str:
        """The messages as text; `to_answer` asks for the assistant's next one behind them.

        Raises `TemplateError`, and whatever else a template makes Python raise.
        """
        deadline = self._clock() + MAX_SECONDS
        pieces, size = [], 0
        for piece in self._template.generate(
            messages=messages,
            add_generation_prompt=to_answer,
            tools=list(tools) or None,
            documents=None,
            range=lambda *bounds: self._range(deadline, *bounds),
            **self._special,
            **options,
        ):
            pieces.append(piece)
            size += len(piece)
            self._check(deadline, size)
        return "".join(pieces)

    def _range(self, deadline: float, *bounds: int) -> Iterator[int]:
        """Nested loops without output never reach `_render`'s check, so it is made here too."""
        for number in safe_range(*bounds):
            self._check(deadline)
            yield number

    def _check(self, deadline: float, size: int = 0) -> None:
        if size > MAX_CHARACTERS:
            raise TemplateLimit(f"more than {MAX_CHARACTERS} characters")
        if self._clock() > deadline:
            raise TemplateLimit(f"took longer than {MAX_SECONDS:g} s")


def find_template(config: Mapping[str, Any], file: str | None) -> str | None:
    """A checkpoint's template: its own file, else `chat_template` of tokenizer_config.json.

    Where that holds several by name, the one named `default`.
    """
    if file is not None:
        return file
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found if isinstance(found, str) else None


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like of a tokenizer_config.json; older ones hold an object with a `content`."""
    found = {}
    for name in _SPECIAL:
        value = config.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            found[name] = content
    return found


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,  # noqa: ANN401
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _size(operand: object) -> int:
    """How much a factor makes of the other one: a length, or a number's magnitude."""
    if isinstance(operand, str | list | tuple | bytes):
        return max(1, len(operand))
    return max(1, abs(int(operand))) if isinstance(operand, int | float) else 1
