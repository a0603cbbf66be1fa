"""Connections whose clients keep the server waiting, on a clock that jumps."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from pitcrew_runtime.server.patience import BYTES_PER_SECOND, PatientProtocol, patient

pytestmark = pytest.mark.looptime

SECONDS = 30.0
HEADERS = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: "


class Wire(asyncio.Transport):
    """What a client sees of a connection. One that reads nothing takes nothing of what is sent."""

    def __init__(self, reads: bool = True) -> None:
        super().__init__()
        self.reads = reads
        self.sent = b""
        self.ended: float | None = None
        self.protocol: PatientProtocol | None = None

    def write(self, data: Any) -> None:  # noqa: ANN401 - asyncio's own
        self.sent += bytes(data)
        if not self.reads and self.protocol is not None:
            self.protocol.pause_writing()

    def close(self) -> None:
        if self.reads:
            self.abort()

    def abort(self) -> None:
        if self.ended is None:
            self.ended = asyncio.get_running_loop().time()
            assert self.protocol is not None
            self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self.ended is not None

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body, computes for an hour where it says so, and answers."""
    body = b""
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    if body == b"compute":
        await asyncio.sleep(3600)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers before the body has come."""
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"no"})


def connect(app: Callable[..., Awaitable[None]] = echo, reads: bool = True) -> Wire:
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    config.load()
    protocol = patient(SECONDS)(config=config, server_state=ServerState(), app_state={})
    wire = Wire(reads)
    protocol.connection_made(wire)
    wire.protocol = protocol
    return wire


async def drip(wire: Wire, data: bytes, every: float, times: int) -> None:
    """Send a piece again and again, as long as the connection is there."""
    for _ in range(times):
        if wire.is_closing():
            return
        assert wire.protocol is not None
        wire.protocol.data_received(data)
        await asyncio.sleep(every)


async def say(wire: Wire, data: bytes) -> None:
    await drip(wire, data, every=0.01, times=1)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_silent_connection_is_closed() -> None:
    wire = connect()
    await asyncio.sleep(SECONDS + 1)
    assert wire.ended == pytest.approx(SECONDS)
    assert wire.sent == b"", "nothing was asked"


async def test_headers_that_never_end() -> None:
    wire = connect()
    await say(wire, b"GET / HTTP/1.1\r\n")
    await drip(wire, b"X: y\r\n", every=1.0, times=1000)
    assert wire.ended == pytest.approx(SECONDS, abs=1.0)
    assert wire.sent.startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_never_ends() -> None:
    wire = connect()
    await say(wire, HEADERS + b"1000000\r\n\r\n")
    await drip(wire, b"x", every=1.0, times=1000)
    assert wire.ended == pytest.approx(SECONDS, abs=2.0)
    assert wire.sent.startswith(b"HTTP/1.1 408 ")


async def test_a_large_body_may_take_its_time() -> None:
    wire, pieces = connect(), 100
    await say(wire, HEADERS + b"%d\r\n\r\n" % (pieces * BYTES_PER_SECOND))
    await drip(wire, b"x" * BYTES_PER_SECOND, every=1.0, times=pieces)
    assert wire.sent.startswith(b"HTTP/1.1 200 ")


async def test_chunks_that_never_end() -> None:
    wire = connect()
    await say(wire, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    await drip(wire, b"1\r\nx\r\n", every=1.0, times=1000)
    assert wire.ended == pytest.approx(SECONDS, abs=2.0)
    assert wire.sent.startswith(b"HTTP/1.1 408 ")


async def test_a_body_behind_its_answer() -> None:
    wire = connect(at_once)
    await say(wire, HEADERS + b"1000000\r\n\r\n")
    await drip(wire, b"x", every=1.0, times=1000)
    assert wire.ended == pytest.approx(SECONDS, abs=2.0)
    assert wire.sent.count(b"HTTP/1.1") == 1


async def test_the_next_request_of_a_connection() -> None:
    wire = connect()
    for _ in range(40):
        await say(wire, HEADERS + b"2\r\n\r\nhi")
        await asyncio.sleep(1.0)
    assert wire.sent.count(b"HTTP/1.1 200 ") == 40
    begun = now()
    await drip(wire, b"GET / HTTP/1.1\r\nX: y\r\n", every=SECONDS - 1, times=1)
    await drip(wire, b"X: y\r\n", every=1.0, times=1000)
    assert wire.ended == pytest.approx(begun + SECONDS, abs=1.0)


async def test_computing_takes_no_patience() -> None:
    wire = connect()
    await say(wire, HEADERS + b"7\r\n\r\ncompute")
    await asyncio.sleep(3599)
    assert wire.ended is None
    await asyncio.sleep(2)
    assert wire.sent.endswith(b"compute")


async def test_an_answer_that_is_not_read() -> None:
    wire = connect(reads=False)
    await say(wire, HEADERS + b"2\r\n\r\nhi")
    await asyncio.sleep(2 * SECONDS)
    assert wire.ended == pytest.approx(SECONDS, abs=1.0)


async def test_one_who_reads_on_is_waited_for() -> None:
    wire = connect(reads=False)
    await say(wire, HEADERS + b"2\r\n\r\nhi")
    assert wire.protocol is not None
    for _ in range(10):
        wire.protocol.resume_writing()
        wire.protocol.pause_writing()
        await asyncio.sleep(SECONDS - 1)
    assert wire.ended is None
