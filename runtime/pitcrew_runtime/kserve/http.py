"""The protocol over HTTP, with Triton's binary tensors and its `generate` endpoints."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from pitcrew_runtime.errors import InvalidRequest, RequestError
from pitcrew_runtime.kserve import http_wire as wire
from pitcrew_runtime.kserve.inference import Inference, parse
from pitcrew_runtime.kserve.service import VERSION, Service
from pitcrew_runtime.kserve.tensors import Tensor
from pitcrew_runtime.server import problems
from pitcrew_runtime.server.answer import EventStream, or_disconnect
from pitcrew_runtime.server.bodies import read_body, validated
from pitcrew_runtime.server.keys import key_number

_Endpoint = Callable[[HttpRequest], Awaitable[Response]]


class _Route(Route):
    """Answers its path whatever the method, or else another would take it for a model's name."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), child


class KServeHttp:
    """Everything under `/v2`."""

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """The endpoints. A model's name may have slashes: what ends otherwise is looked for first."""
        model = "/v2/models/{model:path}"
        models = [
            ("/ready", self.model_ready, "GET"),
            ("/config", self.config, "GET"),
            ("/infer", self.infer, "POST"),
            ("/generate", self.generate, "POST"),
            ("/generate_stream", self.generate_stream, "POST"),
            ("", self.metadata, "GET"),
        ]
        return [
            Route("/v2", _told(self.server), methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            Route("/v2/repository/index", _told(self.index), methods=["POST"]),
            *(
                _Route(f"{start}{path}", _told(endpoint), methods=[method])
                for start in (model + "/versions/{version}", model)
                for path, endpoint, method in models
            ),
        ]

    async def live(self, http: HttpRequest) -> Response:
        """The process answers."""
        return Response()

    async def ready(self, http: HttpRequest) -> Response:
        """503 until an inference would be taken."""
        return Response(status_code=200 if self._service.ready else 503)

    async def server(self, http: HttpRequest) -> Response:
        """Who answers."""
        return problems.json_response(self._service.server_metadata())

    async def index(self, http: HttpRequest) -> Response:
        """The models that there are."""
        return problems.json_response(self._service.index())

    async def model_ready(self, http: HttpRequest) -> Response:
        """Of one model."""
        self._check(http)
        return Response(status_code=200 if self._service.ready else 503)

    async def metadata(self, http: HttpRequest) -> Response:
        """Inputs and outputs."""
        self._check(http)
        return problems.json_response(self._service.metadata(http.path_params["model"]))

    async def config(self, http: HttpRequest) -> Response:
        """Triton's model configuration."""
        self._check(http)
        return problems.json_response(self._service.config(http.path_params["model"]))

    async def infer(self, http: HttpRequest) -> Response:
        """Tensors in, tensors out."""
        self._check(http)
        raw = await read_body(http, self._max_body_bytes)
        body, tensors = wire.read_infer(raw, http.headers.get(wire.HEADER_LENGTH))
        wanted = [output.name for output in body.outputs]
        asked = self._parse(http, tensors, body.parameters, wanted)
        if asked.stream:
            raise InvalidRequest(
                "stream: an infer request has one response; use generate_stream", param="stream"
            )
        found = await or_disconnect(http, self._service.whole(asked, len(raw)))
        if found is None:
            return problems.client_closed()
        return wire.tensors_response(_head(asked, body.id), found.tensors, wire.binary(body))

    async def generate(self, http: HttpRequest) -> Response:
        """Text in, text out."""
        body, asked, size = await self._generate(http, stream=False)
        found = await or_disconnect(http, self._service.whole(asked, size))
        if found is None:
            return problems.client_closed()
        return problems.json_response({**_head(asked, body.id), **wire.plain(found.tensors)})

    async def generate_stream(self, http: HttpRequest) -> Response:
        """Text in, an event for each piece of text out."""
        body, asked, size = await self._generate(http, stream=True)
        events = self._events(_head(asked, body.id), asked, size)
        # A refusal has a status of its own, so the first event is waited for.
        first = await or_disconnect(http, _next(events))
        if first is None:
            return problems.client_closed()
        return EventStream(_chained(first, events), events.aclose)

    async def _generate(
        self, http: HttpRequest, stream: bool
    ) -> tuple[wire.GenerateBody, Inference, int]:
        self._check(http)
        raw = await read_body(http, self._max_body_bytes)
        body = validated(wire.GenerateBody, raw)
        tensors = wire.given(body)
        asked = self._parse(http, tensors, {**body.parameters, "stream": stream}, ())
        return body, asked, len(raw)

    async def _events(
        self, head: dict[str, Any], asked: Inference, size: int
    ) -> AsyncGenerator[bytes]:
        begun = False
        try:
            async with aclosing(self._service.stream(asked, size)) as responses:
                async for response in responses:
                    begun = True
                    yield wire.event({**head, **wire.plain(response.tensors)})
        except RequestError as error:
            if not begun:
                raise
            yield wire.event({"error": str(error)})

    def _parse(
        self,
        http: HttpRequest,
        tensors: Sequence[Tensor],
        parameters: dict[str, Any],
        wanted: Sequence[str],
    ) -> Inference:
        model = http.path_params["model"]
        return parse(model, tensors, parameters, wanted, key_number(http.scope))

    def _check(self, http: HttpRequest) -> None:
        self._service.check(http.path_params["model"], http.path_params.get("version", ""))


def _head(asked: Inference, request_id: str) -> dict[str, Any]:
    head = {"model_name": asked.body.model, "model_version": VERSION}
    return {"id": request_id, **head} if request_id else head


def _told(endpoint: _Endpoint) -> _Endpoint:
    """Errors in the protocol's shape: `{"error": "…"}`."""

    async def answer(http: HttpRequest) -> Response:
        try:
            return await endpoint(http)
        except RequestError as error:
            return problems.response(error, {"error": str(error)})

    return answer


async def _next(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for event in rest:
        yield event
