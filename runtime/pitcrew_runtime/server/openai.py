"""The OpenAI endpoints: read a body, start a generation, hand the answer on."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.errors import BodyTooLarge, ModelNotFound
from pitcrew_runtime.frontend import Frontend, Prompt
from pitcrew_runtime.server import problems
from pitcrew_runtime.server.answer import Answer
from pitcrew_runtime.server.choice import Choice, Ending
from pitcrew_runtime.server.formats import ChatFormat, CompletionFormat, Envelope, Json
from pitcrew_runtime.server.schemas import ChatBody, CompletionBody
from pitcrew_runtime.server.translate import Language

_INLINE_BYTES = 1 << 14
"""Smaller bodies are tokenized on the event loop; larger ones would hold it up."""

B = TypeVar("B", bound=BaseModel)
Handler = Callable[[HttpRequest], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class OpenAI:
    """The endpoints of one served model."""

    name: str
    manifest: Manifest
    language: Language
    frontend: Frontend
    max_body_bytes: int

    def routes(self) -> list[Route]:
        """Everything under `/v1`."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def models(self, http: HttpRequest) -> Response:
        """The one model that is served."""
        return problems.json_response({"object": "list", "data": [self._card()]})

    async def model(self, http: HttpRequest) -> Response:
        """The same by name."""
        self._check_model(http.path_params["model"])
        return problems.json_response(self._card())

    async def completions(self, http: HttpRequest) -> Response:
        """Text or token ids, continued."""
        body, size = await self._read(http, CompletionBody)
        self._check_model(body.model)
        held_to = await self.language.compiled(body)
        prompts = await _aside(size, lambda: self.language.completion(body, held_to))
        tokenizer = self.language.tokenizer
        echoed = [
            tokenizer.decode(prompt.tokens) if body.echo and tokenizer else "" for prompt in prompts
        ]
        form = CompletionFormat(self._envelope("cmpl", body))
        choices = [
            Choice(index, tokenizer, _ending(body), text, prompts[index].sampling.guide)
            for index, text in enumerate(echoed)
        ]
        return await self._answer(http, body, prompts, choices, form)

    async def chat(self, http: HttpRequest) -> Response:
        """The assistant's next message."""
        body, _ = await self._read(http, ChatBody)
        self._check_model(body.model)
        held_to = await self.language.compiled(body)
        # Off the event loop whatever the size: a template may take its time.
        prompts = await asyncio.to_thread(self.language.chat, body, held_to)
        form = ChatFormat(self._envelope("chatcmpl", body))
        choices = [
            Choice(
                index,
                self.language.tokenizer,
                _ending(body),
                guide=prompt.sampling.guide,
                reader=self.language.call_reader(body),
            )
            for index, prompt in enumerate(prompts)
        ]
        return await self._answer(http, body, prompts, choices, form)

    async def _answer(
        self,
        http: HttpRequest,
        body: CompletionBody | ChatBody,
        prompts: list[Prompt],
        choices: list[Choice],
        form: CompletionFormat | ChatFormat,
    ) -> Response:
        # Choices of one prompt stand together: it is counted once.
        prompt_tokens = sum(len(prompt.tokens) for prompt in prompts[:: body.n or 1])
        answer = Answer(self.frontend.start(prompts), choices, form, prompt_tokens)
        if body.stream:
            options = body.stream_options
            return answer.streamed(options is not None and options.include_usage)
        return await answer.whole(http)

    def _envelope(self, prefix: str, body: CompletionBody | ChatBody) -> Envelope:
        return Envelope(
            id=f"{prefix}-{secrets.token_hex(16)}",
            created=int(time.time()),
            model=self.name,
            fingerprint=f"fp_{self.manifest.engine_id[:12]}",
            tokenizer=self.language.tokenizer,
            logprobs=body.wanted_logprobs is not None,
            token_ids=body.return_token_ids,
        )

    def _check_model(self, model: str) -> None:
        if model != self.name:
            raise ModelNotFound(
                f"the model {model!r} is not served here; this server has {self.name!r}",
                param="model",
            )

    def _card(self) -> Json:
        created = datetime.fromisoformat(self.manifest.created_at)
        return {
            "id": self.name,
            "object": "model",
            "created": int(created.timestamp()),
            "owned_by": "pitcrew",
            "root": self.manifest.tag,
            "max_model_len": self.language.max_length,
        }

    async def _read(self, http: HttpRequest, model: type[B]) -> tuple[B, int]:
        raw = await read_body(http, self.max_body_bytes)
        try:
            return model.model_validate_json(raw), len(raw)
        except ValidationError as error:
            raise problems.invalid_body(error) from None


def _ending(body: CompletionBody | ChatBody) -> Ending:
    return Ending(body.stops, body.include_stop_str_in_output, body.min_tokens)


async def read_body(http: HttpRequest, limit: int) -> bytes:
    """The request's body; raises `BodyTooLarge` as soon as it is known to be."""
    declared = http.headers.get("content-length", "0")
    raw = bytearray()
    if not declared.isdigit() or int(declared) <= limit:
        async for piece in http.stream():
            raw += piece
            if len(raw) > limit:
                break
        else:
            return bytes(raw)
    raise BodyTooLarge(f"the body may have {limit} bytes; shorten the prompt")


async def _aside(size: int, work: Callable[[], list[Prompt]]) -> list[Prompt]:
    return work() if size <= _INLINE_BYTES else await asyncio.to_thread(work)
