"""Numbers over a TCP connection: messages of the leader, and the values that ranks exchange."""

import json
import select
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.ranks.sealed import Connection, Sealed

Array = NDArray[Any]

_LENGTHS = struct.Struct("<IQ")
"""Of a message: bytes of its text, bytes of its arrays."""
_LARGEST_TEXT = 1 << 20
_HEADER = 8
"""Words before a value: its axes, and its length along each."""
_KINDS = "biuf"
_SILENT_SECONDS = 10


def prepare(connection: socket.socket) -> None:
    """Send at once, and notice within seconds where the other end's machine is gone."""
    connection.settimeout(None)
    options = {
        socket.TCP_NODELAY: 1,
        socket.TCP_KEEPIDLE: 2,
        socket.TCP_KEEPINTVL: 2,
        socket.TCP_KEEPCNT: _SILENT_SECONDS // 2 - 1,
        socket.TCP_USER_TIMEOUT: _SILENT_SECONDS * 1000,
    }
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in options.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def send_message(end: Connection, kind: str, text: str, arrays: Mapping[str, Array]) -> None:
    """Raises `OSError` where the other end is gone."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    head = json.dumps(
        {
            "kind": kind,
            "text": text,
            "arrays": [(name, array.dtype.str, array.shape) for name, array in whole.items()],
        }
    ).encode()
    size = sum(array.nbytes for array in whole.values())
    end.sendall(_LENGTHS.pack(len(head), size) + head)
    for array in whole.values():
        end.sendall(_bytes(array))


def receive_message(end: Connection) -> tuple[str, str, Mapping[str, Array]]:
    """(kind, text, arrays). Raises `EOFError` where the other end is gone, `ValueError`."""
    length, size = _LENGTHS.unpack(read(end, _LENGTHS.size))
    if length > _LARGEST_TEXT:
        raise ValueError(f"a message has a text of {length} bytes")
    head = json.loads(read(end, length))
    arrays = {}
    for name, kind, shape in head["arrays"]:
        array = np.empty(shape, _numeric(kind))
        size -= array.nbytes
        if size < 0:
            raise ValueError("a message has less than it says")
        _fill(end, _bytes(array))
        arrays[name] = array
    return head["kind"], head["text"], arrays


def read(end: Connection, size: int) -> bytearray:
    """So many bytes. Raises `EOFError` where the other end is gone."""
    found = bytearray(size)
    _fill(end, memoryview(found))
    return found


def send_value(end: Connection, value: Array) -> None:
    """Hand a float32 array to whoever calls `receive_value`."""
    for part in _frame(value):
        end.sendall(part)


def receive_value(end: Connection) -> Array:
    """Raises `EOFError` where the other end is gone."""
    value = np.empty(_shape(read(end, 8 * _HEADER)), np.float32)
    _fill(end, _bytes(value))
    return value


def swap(peers: Mapping[int, Connection], value: Array) -> dict[int, Array]:
    """Give `value` to all and take theirs, both at once: nobody waits for somebody who sends.

    Raises `EOFError` where one is gone.
    """
    calls = {end.fileno(): _Call(end, _frame(value)) for end in peers.values()}
    poll = select.poll()
    for descriptor in calls:
        poll.register(descriptor, select.POLLIN | select.POLLOUT)
    waiting = len(calls)
    while waiting:
        for descriptor, events in poll.poll():
            call = calls[descriptor]
            if events & select.POLLOUT:
                call.push()
            if events & ~select.POLLOUT:
                call.pull()
            if call.wants == 0:
                poll.unregister(descriptor)
                waiting -= 1
            else:
                poll.modify(descriptor, call.wants)
    return {rank: calls[end.fileno()].value for rank, end in peers.items()}


class _Call:
    """One peer in a swap."""

    def __init__(self, end: Connection, frame: list[memoryview]) -> None:
        self._end = end
        if isinstance(end, Sealed):
            self._outside, self._out = end.outside, [memoryview(end.encipher(frame))]
        else:
            self._outside, self._out = end, list(frame)
        self._header = bytearray(8 * _HEADER)
        self._into = memoryview(self._header)
        self._value: Array | None = None

    @property
    def wants(self) -> int:
        """What to poll for; 0 when both directions are done."""
        ends = self._value is not None and not len(self._into)
        return (select.POLLOUT if self._out else 0) | (0 if ends else select.POLLIN)

    @property
    def value(self) -> Array:
        assert self._value is not None
        return self._value

    def push(self) -> None:
        """Send what goes without waiting."""
        while self._out:
            try:
                sent = self._outside.send(self._out[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._out[0] = self._out[0][sent:]
            if not len(self._out[0]):
                del self._out[0]

    def pull(self) -> None:
        """Take what is there."""
        while self.wants & select.POLLIN:
            try:
                got = self._end.recv_into(self._into, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not got:
                raise EOFError("another rank is gone")
            self._into = self._into[got:]
            if not len(self._into) and self._value is None:
                self._value = np.empty(_shape(self._header), np.float32)
                self._into = _bytes(self._value)


def _frame(value: Array) -> list[memoryview]:
    if value.dtype != np.float32 or value.ndim >= _HEADER:
        raise ValueError(f"a value is float32 of at most {_HEADER - 1} axes, not {value.dtype}")
    header = np.zeros(_HEADER, np.int64)
    header[0], header[1 : 1 + value.ndim] = value.ndim, value.shape
    parts = (_bytes(header), _bytes(np.ascontiguousarray(value)))
    return [part for part in parts if len(part)]


def _shape(header: bytearray) -> list[int]:
    axes, *dims = np.frombuffer(header, np.int64).tolist()
    return [int(size) for size in dims[:axes]]


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _fill(end: Connection, into: memoryview) -> None:
    while len(into):
        got = end.recv_into(into)
        if not got:
            raise EOFError("the other end is gone")
        into = into[got:]


def _numeric(kind: str) -> np.dtype[Any]:
    found = np.dtype(kind)
    if found.kind not in _KINDS:
        raise ValueError(f"{kind!r} is no type of numbers")
    return found
