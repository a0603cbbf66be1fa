"""Between the requests of Triton's Python backend and ours.

`pb_utils` is the module that the backend lends to its models; it is there in its process only.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import numpy as np

from pitcrew_runtime.errors import (
    AdapterConflict,
    DeadlineExceeded,
    Draining,
    GenerationFailed,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    QueueFull,
    RequestError,
)
from pitcrew_runtime.kserve.inference import INPUTS, OUTPUTS, Inference, parse
from pitcrew_runtime.kserve.service import Response, Service
from pitcrew_runtime.kserve.tensors import BYTES, Tensor, checked

logger = logging.getLogger(__name__)

_CODES: Mapping[type[RequestError], str] = {
    InvalidRequest: "INVALID_ARG",
    ModelNotFound: "NOT_FOUND",
    AdapterConflict: "ALREADY_EXISTS",
    QueueFull: "UNAVAILABLE",
    NotReady: "UNAVAILABLE",
    Draining: "UNAVAILABLE",
    DeadlineExceeded: "CANCELLED",
    GenerationFailed: "INTERNAL",
}
_DTYPES: Mapping[str, Any] = {BYTES: np.object_, "UINT32": np.uint32}
_OUTPUT_NAMES = frozenset(name for name, _ in OUTPUTS)
_SWEEP_SECONDS = (0.05, 0.5)
_SWEEP_SHARE = 10
"""Asking whether a request is cancelled is a call into Triton: about 1/10 of the time at most, but a
slow machine does not put off the next question for long.
"""


class _Sender:
    """A request's sender, which must not be asked anything after its last response.

    Triton has then freed what the question is about, and would die of it.
    """

    def __init__(self, sender: Any) -> None:  # noqa: ANN401
        self._sender = sender
        self._lock = threading.Lock()
        self._done = False

    def send(self, response: Any, flags: int) -> None:  # noqa: ANN401
        """Send a response; any flags say that it is the last."""
        with self._lock:
            self._sender.send(response, flags=flags)
            self._done = bool(flags)

    def is_cancelled(self) -> bool:
        """Whether nobody waits for more. Waits for Triton."""
        with self._lock:
            return not self._done and bool(self._sender.is_cancelled())


class Edge:
    """Answers requests of Triton on the event loop."""

    def __init__(self, service: Service, pb_utils: Any) -> None:  # noqa: ANN401 - no types there
        self._service = service
        self._pb = pb_utils
        self._live: dict[asyncio.Task[None], _Sender] = {}

    async def answer(self, request: Any) -> None:  # noqa: ANN401
        """All responses to one request; a fault is its last response and nobody else's."""
        sender = _Sender(request.get_response_sender())
        task = asyncio.current_task()
        assert task is not None
        self._live[task] = sender
        try:
            await self._respond(request, sender)
        except RequestError as error:
            self._fail(sender, str(error), _CODES.get(type(error), "INTERNAL"))
        except asyncio.CancelledError:
            self._fail(sender, "the request was cancelled", "CANCELLED")
        except Exception as error:
            logger.exception("A request failed")
            self._fail(sender, f"{type(error).__name__}: {error}", "INTERNAL")
        finally:
            del self._live[task]

    async def watch(self) -> None:
        """Cancel what Triton's clients have cancelled, until cancelled."""
        while True:
            started = time.monotonic()
            for task, sender in list(self._live.items()):
                # Waits for Triton: on the event loop it would hold up everybody's tokens.
                if await asyncio.to_thread(sender.is_cancelled):
                    task.cancel()
            spent = time.monotonic() - started
            shortest, longest = _SWEEP_SECONDS
            await asyncio.sleep(min(longest, max(shortest, _SWEEP_SHARE * spent)))

    async def _respond(self, request: Any, sender: _Sender) -> None:  # noqa: ANN401
        asked = self._parse(request)
        size = len(str(asked.body.prompt))
        if not asked.stream:
            self._send(sender, await self._service.whole(asked, size))
            return
        async with aclosing(self._service.stream(asked, size)) as responses:
            async for response in responses:
                self._send(sender, response)

    def _parse(self, request: Any) -> Inference:  # noqa: ANN401
        parameters = json.loads(request.parameters() or "{}")
        if timeout := request.timeout():
            parameters["timeout"] = timeout
        names = frozenset(request.requested_output_names())
        # A request that names no outputs looks like one that names them all: its flags tell.
        wanted = sorted(names) if names != _OUTPUT_NAMES else []
        tensors = [_tensor(one) for one in request.inputs()]
        return parse(self._service.served.name, tensors, parameters, wanted)

    def _send(self, sender: _Sender, response: Response) -> None:
        tensors = [self._pb.Tensor(one.name, _array(one)) for one in response.tensors]
        flags = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if response.final else 0
        sender.send(self._pb.InferenceResponse(tensors), flags)

    def _fail(self, sender: _Sender, message: str, code: str) -> None:
        error = self._pb.TritonError(message, getattr(self._pb.TritonError, code))
        response = self._pb.InferenceResponse(error=error)
        sender.send(response, self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _tensor(given: Any) -> Tensor:  # noqa: ANN401
    """Triton has checked its name and type against the configuration."""
    name, array = given.name(), given.as_numpy()
    return checked(name, dict(INPUTS)[name], array.shape, array.ravel().tolist())


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    values = [one.encode() if isinstance(one, str) else one for one in tensor.values]
    return np.array(values, _DTYPES[tensor.datatype]).reshape(tensor.shape)
