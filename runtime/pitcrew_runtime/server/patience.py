"""HTTP connections that wait for their client only so long.

Whoever sends headers or a body byte by byte, or reads nothing of an answer, costs a connection for
as long as it is kept (CWE-400, "slow loris"). uvicorn's timer is for connections between two
requests, and any byte stops it. So each connection has a second one, for whatever the client owes:
the rest of a request, or room for an answer. Nothing is owed while the engine computes.
"""

import asyncio
import sys
from typing import Any

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from pitcrew_runtime.server import problems

BYTES_PER_SECOND = 16_384
"""A body may take a second longer for each of so many bytes that have come."""
_OWES_REQUEST = frozenset({h11.IDLE, h11.SEND_BODY})


class PatientProtocol(H11Protocol):
    """One connection. Gives its client `seconds` for each thing that is owed."""

    seconds = 30.0

    def __init__(self, *arguments: Any, **more: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **more)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._awaited: object = None
        """Which part of a request is awaited: h11's name of the client's state."""
        self._deadline = 0.0
        self._received = 0
        """Bytes of that part."""

    def _should_upgrade(self) -> bool:
        """A wish for another protocol is ignored, and not worth a line of the log each time."""
        return False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its first request is owed."""
        super().connection_made(transport)
        self._await(h11.IDLE)

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        self._received += len(data)
        if self._reading is None:
            self._await(h11.IDLE)
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Between two requests the client owes nothing; uvicorn's own timer runs."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_room()
        self._look()

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        self._expect_room()

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        _stop(self._writing)
        self._writing = None

    def timeout_keep_alive_handler(self) -> None:
        """Closing sends what is left, which takes a client that reads."""
        super().timeout_keep_alive_handler()
        self._expect_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        _stop(self._reading)
        _stop(self._writing)
        super().connection_lost(exc)

    def _look(self) -> None:
        """What the client owes now."""
        state = self.conn.their_state
        if self.transport.is_closing() or state not in _OWES_REQUEST or self._between():
            _stop(self._reading)
            self._reading = None
        elif state is not self._awaited:
            self._await(state)

    def _between(self) -> bool:
        return self.timeout_keep_alive_task is not None and self.conn.their_state is h11.IDLE

    def _await(self, state: object) -> None:
        """Start the clock for a part of a request."""
        self._awaited, self._received = state, 0
        self._deadline = self.loop.time() + self.seconds
        _stop(self._reading)
        self._wait()

    def _wait(self) -> None:
        self._reading = self.loop.call_at(self._deadline + self._extra(), self._read_too_long)

    def _extra(self) -> float:
        return self._received / BYTES_PER_SECOND if self._awaited is h11.SEND_BODY else 0.0

    def _read_too_long(self) -> None:
        """Time is up, unless so much has come meanwhile that more is due."""
        if self.loop.time() < self._deadline + self._extra():
            self._wait()
            return
        self._reading = None
        late = problems.plain(408, "the request did not come in time; send it faster")
        self._close(late if self._received else None)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or more of it than h11 takes."""
        fault = sys.exception()
        is_long = isinstance(fault, h11.RemoteProtocolError) and fault.error_status_hint == 431
        self._close(problems.plain(431 if is_long else 400, f"this is no HTTP request: {fault}"))

    def _close(self, response: Response | None) -> None:
        """With a last word, written past an application that still waits for the body.

        Behind the answer to a request, which may come before its body, there is nothing to say.
        """
        if response is not None and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self._awaited is h11.SEND_BODY:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            headers = [*response.raw_headers, (b"connection", b"close")]
            head = h11.Response(status_code=response.status_code, headers=headers)
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._expect_room()

    def _expect_room(self) -> None:
        """Drop the connection if what was sent is not taken in time."""
        if self._writing is None:
            self._writing = self.loop.call_later(self.seconds, self.transport.abort)


def patient(wait: float) -> type[PatientProtocol]:
    """The protocol with `wait` seconds of patience."""
    return type("PatientProtocol", (PatientProtocol,), {"seconds": wait})


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
