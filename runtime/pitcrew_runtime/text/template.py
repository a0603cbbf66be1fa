"""Chat templates as requests use them: roles, tools and options, and errors that are the request's."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from pitcrew_builder.chat import NO_OPTIONS, Clock, Options, Template
from pitcrew_runtime.errors import InvalidRequest

_MESSAGE_TOOLS = re.compile(r"""\w(?:\.|\[['"])tools\b""")


class ChatTemplate:
    """One compiled template. Thread-safe."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], clock: Clock = time.monotonic
    ) -> None:
        self.source = source
        self.options: frozenset[str] = frozenset()
        """Names of what it reads beside the messages, such as `enable_thinking`."""
        self._reads_tools = False
        try:
            self._template = Template(source, special_tokens, clock)
            self.options = self._template.options
            self._reads_tools = self._template.reads_tools
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
            return self._template.render(turns, tools, options)
        except Exception as error:  # whatever a template does, the request is to blame
            raise InvalidRequest(
                f"the chat template refused the messages: {type(error).__name__}: {error}",
                param="messages",
            ) from error

    def _check_options(self, options: Options) -> None:
        for name in options:
            if name not in self.options:
                known = ", ".join(sorted(self.options)) or "messages alone"
                raise InvalidRequest(
                    f"{name}: this model's chat template does not read it (it reads {known}); leave "
                    "it out",
                    param=name,
                )

    def _known_role(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """`developer` is OpenAI's later name for `system`, which few templates have heard of."""
        if message["role"] == "developer" and "developer" not in self.source:
            return {**message, "role": "system"}
        return message


def _told_by_the_system(
    turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The messages with the functions as JSON in the first one, as Phi-4-mini's template reads them."""
    functions = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    begins = bool(turns) and turns[0]["role"] == "system"
    system = turns[0] if begins else {"role": "system", "content": ""}
    return [{**system, "tools": functions}, *turns[begins:]]
