"""Renders chat templates, which come from checkpoints and are not trusted.

The environment is the one that templates are written for (transformers'): immutable sandbox,
trimmed blocks, loop controls, a JSON filter that neither escapes HTML nor sorts keys, and
`raise_exception` and `strftime_now`. Rendering is bounded in time, in output, and in what one
expression can blow up.
"""

import json
import re
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

from pitcrew_runtime.errors import InvalidRequest

MAX_CHARACTERS = 4_000_000
MAX_SECONDS = 5.0
_MAX_OPERAND = 1_000_000

Clock = Callable[[], float]
Options = Mapping[str, str | int | float | bool | None]
"""What a template reads beside the messages, by its names."""
NO_OPTIONS: Options = {}
_OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt", "range"})
"""Names that a template reads and nobody else may give."""
_MESSAGE_TOOLS = re.compile(r"""\w(?:\.|\[['"])tools\b""")


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


class ChatTemplate:
    """One compiled template. Thread-safe."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], clock: Clock = time.monotonic
    ) -> None:
        self.source = source
        self._special = dict(special_tokens)
        self._clock = clock
        self._environment = _environment()
        self.options: frozenset[str] = frozenset()
        """Names of what it reads beside the messages, such as `enable_thinking`."""
        self._reads_tools = False
        try:
            self._template = self._environment.from_string(source)
            read = meta.find_undeclared_variables(self._environment.parse(source))
            given = _OURS | self._special.keys() | self._environment.globals.keys()
            self.options = frozenset(read - given)
            self._reads_tools = "tools" in read
            self._fault: str | None = None
        except TemplateError as error:
            # Completions can still be served, so the server starts and chat requests are told.
            self._fault = f"the model's chat template is broken: {error}"

    @property
    def has_tools(self) -> bool:
        """Whether it tells the model of tools, its own variable or a system message's."""
        return self._reads_tools or _MESSAGE_TOOLS.search(self.source) is not None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        options: Options = NO_OPTIONS,
    ) -> str:
        """The prompt that asks for the assistant's next message; raises `InvalidRequest`."""
        if self._fault is not None:
            raise InvalidRequest(f"{self._fault}; use /v1/completions", param="messages")
        self._check_options(options)
        try:
            turns = [self._known_role(message) for message in messages]
            if tools and not self._reads_tools:
                turns = _told_by_the_system(turns, tools)
            return self._render(turns, tools, options)
        except Exception as error:  # whatever a template does, the request is to blame
            raise InvalidRequest(
                f"the chat template refused the messages: {type(error).__name__}: {error}",
                param="messages",
            ) from error

    def _check_options(self, options: Options) -> None:
        for name in options:
            if name not in self.options:
                known = ", ".join(sorted(self.options)) or "nothing"
                raise InvalidRequest(
                    f"{name}: this model's chat template does not read it, but {known}; leave it "
                    "out",
                    param=name,
                )

    def _known_role(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """`developer` is OpenAI's later name for `system`, which few templates have heard of."""
        if message["role"] == "developer" and "developer" not in self.source:
            return {**message, "role": "system"}
        return message

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        options: Options,
    ) -> str:
        deadline = self._clock() + MAX_SECONDS
        pieces, size = [], 0
        for piece in self._template.generate(
            messages=messages,
            add_generation_prompt=True,
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


def _told_by_the_system(
    turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The messages with the functions as JSON in the first one, as Phi-4-mini's template reads them."""
    functions = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    begins = bool(turns) and turns[0]["role"] == "system"
    system = turns[0] if begins else {"role": "system", "content": ""}
    return [{**system, "tools": functions}, *turns[begins:]]


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
