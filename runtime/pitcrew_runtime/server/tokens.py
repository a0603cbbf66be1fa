"""`/tokenize` and `/detokenize`, with the fields that vLLM gave them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import Field, model_validator
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.server import problems
from pitcrew_runtime.server.bodies import read_model
from pitcrew_runtime.server.fields import MAX_TOOLS, Body, ModelName, TemplateOptions, TokenIds
from pitcrew_runtime.server.messages import Messages, Tool
from pitcrew_runtime.server.served import Served
from pitcrew_runtime.text.tokenizer import Tokenizer

MAX_CHARACTERS = 1 << 20
"""Each may be a token, and one takes hundreds of bytes while a text is tokenized."""
_AT_ONCE = 2


class TokenizeBody(Body):
    """A text, or a chat as its template writes it."""

    model: ModelName | None = None
    prompt: Annotated[str, Field(max_length=MAX_CHARACTERS)] | None = None
    messages: Messages | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: TemplateOptions | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("prompt: send either prompt or messages")
        return self


class DetokenizeBody(Body):
    """Token ids."""

    model: ModelName | None = None
    tokens: TokenIds


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the tokenizer of the served model makes of a text, and back."""

    served: Served
    max_body_bytes: int
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    """A text of megabytes takes seconds; the threads are for those who want an answer."""

    def routes(self) -> list[Route]:
        """Both endpoints."""
        return [
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
        ]

    async def tokenize(self, http: HttpRequest) -> Response:
        """The ids of a prompt, as the completion endpoints would see them."""
        body, _ = await read_model(http, TokenizeBody, self.max_body_bytes)
        self._check(body.model)
        tokenizer = self._tokenizer()
        async with self.turns:
            return await asyncio.to_thread(self._told, body, tokenizer)

    async def detokenize(self, http: HttpRequest) -> Response:
        """The text of token ids, special tokens by their names."""
        body, _ = await read_model(http, DetokenizeBody, self.max_body_bytes)
        self._check(body.model)
        async with self.turns:
            text = await asyncio.to_thread(self._text, body.tokens)
        return problems.json_response({"prompt": text})

    def _told(self, body: TokenizeBody, tokenizer: Tokenizer) -> Response:
        ids = self._ids(body, tokenizer)
        names = [tokenizer.name(token) for token in ids] if body.return_token_strs else None
        return problems.json_response(
            {
                "count": len(ids),
                "max_model_len": self.served.language.max_length,
                "tokens": ids,
                "token_strs": names,
            }
        )

    def _ids(self, body: TokenizeBody, tokenizer: Tokenizer) -> list[int]:
        if body.messages is not None:
            options = body.chat_template_kwargs or {}
            return list(self.served.language.rendered(body.messages, body.tools or (), options))
        text = body.prompt or ""
        return (
            tokenizer.encode(text) if body.add_special_tokens else tokenizer.encode_rendered(text)
        )

    def _text(self, tokens: Sequence[int]) -> str:
        tokenizer = self._tokenizer()
        self.served.language.check_ids(tokens, "tokens")
        return tokenizer.decode(tokens, special=True)

    def _check(self, model: str | None) -> None:
        if model is not None:
            self.served.check_model(model)

    def _tokenizer(self) -> Tokenizer:
        tokenizer = self.served.language.tokenizer
        if tokenizer is None:
            raise InvalidRequest("this engine has no tokenizer, only token ids are served")
        return tokenizer
