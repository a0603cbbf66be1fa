"""The OpenAI endpoints: read a body, start a generation, hand the answer on."""

import asyncio
import secrets
import time
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pitcrew_builder.manifest import short_id
from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.frontend import Prompt, Terms
from pitcrew_runtime.server.answer import Answer
from pitcrew_runtime.server.bodies import read_model
from pitcrew_runtime.server.choice import Choice
from pitcrew_runtime.server.completing import completion, ending
from pitcrew_runtime.server.contest import Contest
from pitcrew_runtime.server.formats import ChatFormat, CompletionFormat, Envelope
from pitcrew_runtime.server.keys import tenant
from pitcrew_runtime.server.schemas import ChatBody, CompletionBody, StreamOptions
from pitcrew_runtime.server.served import Served


@dataclass(frozen=True, slots=True)
class OpenAI:
    """What generates text under `/v1`, and what cannot."""

    served: Served
    max_body_bytes: int

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
        ]

    async def completions(self, http: HttpRequest) -> Response:
        """Text or token ids, continued."""
        body, size = await read_model(http, CompletionBody, self.max_body_bytes)
        self.served.check_model(body.model)
        self.served.frontend.check_room()
        prompts, choices = await completion(self.served.language, body, size)
        form = CompletionFormat(self._envelope("cmpl", body))
        return await self._answer(http, body, prompts, choices, form)

    async def chat(self, http: HttpRequest) -> Response:
        """The assistant's next message."""
        body, _ = await read_model(http, ChatBody, self.max_body_bytes)
        self.served.check_model(body.model)
        self.served.frontend.check_room()
        language = self.served.language
        held_to = await language.compiled(body)
        # Off the event loop whatever the size: a template may take its time.
        prompts = await asyncio.to_thread(language.chat, body, held_to)
        form = ChatFormat(self._envelope("chatcmpl", body))
        choices = [
            Choice(
                index,
                language.tokenizer,
                ending(body),
                guide=prompt.sampling.guide,
                reader=language.reader(body, prompt),
            )
            for index, prompt in enumerate(prompts)
        ]
        return await self._answer(http, body, prompts, choices, form)

    async def embeddings(self, http: HttpRequest) -> Response:
        """An engine of a language model has no output that was trained to be one."""
        raise InvalidRequest(
            f"{self.served.name!r} generates text and has no embeddings; ask a server of an "
            "embedding model"
        )

    async def _answer(
        self,
        http: HttpRequest,
        body: CompletionBody | ChatBody,
        prompts: list[Prompt],
        choices: list[Choice],
        form: CompletionFormat | ChatFormat,
    ) -> Response:
        # Choices of one prompt stand together: it is counted once.
        prompt_tokens = sum(len(prompt.tokens) for prompt in prompts[:: body.candidates])
        terms = Terms(
            tenant(http.scope, body.cache_salt),
            body.priority,
            body.timeout,
            self.served.adapter(body.model),
        )
        generation = self.served.frontend.start(prompts, terms)
        contest = Contest(body.candidates, body.choices)
        answer = Answer(generation, choices, form, prompt_tokens, contest)
        if body.stream:
            return answer.streamed(body.stream_options or StreamOptions())
        return await answer.whole(http)

    def _envelope(self, prefix: str, body: CompletionBody | ChatBody) -> Envelope:
        return Envelope(
            id=f"{prefix}-{secrets.token_hex(16)}",
            created=int(time.time()),
            model=body.model,
            fingerprint=f"fp_{short_id(self.served.manifest.engine_id)}",
            tokenizer=self.served.language.tokenizer,
            logprobs=body.wanted_logprobs is not None,
            token_ids=body.return_token_ids,
        )
