"""The protocol over gRPC: `inference.GRPCInferenceService`, with Triton's bidirectional stream."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from pitcrew_runtime import errors
from pitcrew_runtime.errors import InvalidRequest, RequestError
from pitcrew_runtime.kserve import grpc_wire as wire
from pitcrew_runtime.kserve.inference import Inference, parse
from pitcrew_runtime.kserve.protocol import inference_pb2 as pb
from pitcrew_runtime.kserve.service import Service
from pitcrew_runtime.server.keys import Keyring

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

Context = grpc.aio.ServicerContext[Any, Any]

_SERVICE = "inference.GRPCInferenceService"
_CODES: Mapping[type[RequestError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.BodyTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.GenerationFailed: grpc.StatusCode.INTERNAL,
}
_IDLE_SECONDS = 300
"""Without a request; then the client is asked to connect anew when it has one."""
_OPEN = frozenset({"ServerLive", "ServerReady", "ModelReady"})
"""Probes have no keys."""


class KServeGrpc:
    """The servicer."""

    def __init__(self, service: Service, keyring: Keyring) -> None:
        self._service = service
        self._keyring = keyring

    def server(self, max_message_bytes: int, client_seconds: float) -> grpc.aio.Server:
        """A server of this servicer, without a port.

        A client has `client_seconds` to begin HTTP/2, and may then be idle for `_IDLE_SECONDS`.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_metadata_size", 1 << 15),
                ("grpc.server_handshake_timeout_ms", round(client_seconds * 1000)),
                ("grpc.max_connection_idle_ms", _IDLE_SECONDS * 1000),
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers([self._handlers()])
        return server

    def _handlers(self) -> grpc.GenericRpcHandler:
        unary: dict[str, tuple[Any, Callable[[Any, Context], Awaitable[Any]]]] = {
            "ServerLive": (pb.ServerLiveRequest, self.live),
            "ServerReady": (pb.ServerReadyRequest, self.ready),
            "ModelReady": (pb.ModelReadyRequest, self.model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": (pb.ModelMetadataRequest, self.metadata),
            "ModelConfig": (pb.ModelConfigRequest, self.config),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self.index),
            "ModelInfer": (pb.ModelInferRequest, self.infer),
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._told(name, method, request),
                response_serializer=_serialized,
            )
            for name, (request, method) in unary.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.stream,
            response_serializer=_serialized,
        )
        return grpc.method_handlers_generic_handler(_SERVICE, handlers)

    async def live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """The process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ready(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Whether an inference would be taken."""
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def model_ready(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Of one model."""
        self._service.check(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._service.ready)

    async def server_metadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Who answers."""
        return pb.ServerMetadataResponse(**self._service.server_metadata())

    async def metadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs."""
        self._service.check(request.name, request.version)
        return pb.ModelMetadataResponse(**self._service.metadata(request.name))

    async def config(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """Triton's model configuration."""
        self._service.check(request.name, request.version)
        return pb.ModelConfigResponse(config=pb.ModelConfig(**self._service.config(request.name)))

    async def index(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """The models that there are."""
        return pb.RepositoryIndexResponse(
            models=[pb.RepositoryIndexResponse.ModelIndex(**one) for one in self._service.index()]
        )

    async def infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """One response with everything."""
        asked = self._parse(request, self._key(context))
        if asked.stream:
            raise InvalidRequest(
                "stream: ModelInfer has one response; use ModelStreamInfer", param="stream"
            )
        return wire.response(request, await self._service.whole(asked, request.ByteSize()))

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Any number of requests, answered as they get on; a fault ends its request only."""
        try:
            key = self._key(context)
        except RequestError as error:
            await _refuse(context, error)
        writing = asyncio.Lock()

        async def write(response: pb.ModelStreamInferResponse) -> None:
            async with writing:
                await context.write(response)

        try:
            async with asyncio.TaskGroup() as group:
                async for raw in requests:
                    group.create_task(self._answer(raw, key, write))
        except* grpc.aio.BaseError:
            # Its client has left, which is nobody's fault; gRPC would log one for anything else.
            raise asyncio.CancelledError from None

    async def _answer(
        self,
        raw: bytes,
        key: int,
        write: Callable[[pb.ModelStreamInferResponse], Awaitable[None]],
    ) -> None:
        request = pb.ModelInferRequest()
        try:
            request = _parsed(pb.ModelInferRequest, raw)
            async with aclosing(self._responses(request, key)) as responses:
                async for response in responses:
                    await write(pb.ModelStreamInferResponse(infer_response=response))
        except RequestError as error:
            # The id tells a client with several requests which of them it was.
            named = pb.ModelInferResponse(id=request.id)
            await write(pb.ModelStreamInferResponse(error_message=str(error), infer_response=named))

    async def _responses(
        self, request: pb.ModelInferRequest, key: int
    ) -> AsyncGenerator[pb.ModelInferResponse]:
        asked = self._parse(request, key)
        if not asked.stream:
            yield wire.response(request, await self._service.whole(asked, request.ByteSize()))
            return
        async with aclosing(self._service.stream(asked, request.ByteSize())) as responses:
            async for response in responses:
                yield wire.response(request, response)

    def _parse(self, request: pb.ModelInferRequest, key: int) -> Inference:
        self._service.check(request.model_name, request.model_version)
        return parse(
            request.model_name,
            wire.tensors(request),
            wire.parameters(request),
            wire.wanted(request),
            key,
        )

    def _key(self, context: Context) -> int:
        metadata = dict(context.invocation_metadata() or ())
        given = metadata.get("authorization", "")
        return self._keyring.number(given if isinstance(given, bytes) else given.encode())

    def _told(
        self, name: str, method: Callable[[Any, Context], Awaitable[Any]], kind: type[Message]
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        """Check the key, read the message, and give errors their status."""

        async def answer(raw: bytes, context: Context) -> Any:  # noqa: ANN401 - any message
            try:
                if name not in _OPEN:
                    self._key(context)
                return await method(_parsed(kind, raw), context)
            except RequestError as error:
                await _refuse(context, error)

        return answer


async def _refuse(context: Context, error: RequestError) -> NoReturn:
    await context.abort(_CODES.get(type(error), grpc.StatusCode.INTERNAL), str(error))


def _parsed(kind: type[M], raw: bytes) -> M:
    """gRPC's own deserializing logs a traceback for whatever is sent, and answers UNKNOWN."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequest(f"this is no {kind.__name__}: {error}") from None


def _serialized(message: Any) -> bytes:  # noqa: ANN401 - any message
    raw: bytes = message.SerializeToString()
    return raw
