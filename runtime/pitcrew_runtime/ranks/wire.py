"""Messages between the leader and a rank: a line of JSON, and arrays that go with it.

Few bytes follow the line, as a step of decoding has: a file for them would take longer than the rest. More
lie in a file in memory whose descriptor travels beside the line, so their size is free
and they are never copied through the socket. To a rank in another pod they are sent. Numbers are all
that can be sent: nothing that is received is ever executed.
"""

import json
import math
import mmap
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.ranks import stream
from pitcrew_runtime.ranks.sealed import Connection, Sealed

Array = NDArray[Any]

_LARGEST_TEXT = 1 << 20
_ALIGNED = 64
_FOLLOWING = 64 << 10
"""Bytes of arrays that follow the line at most."""

_LENGTH = struct.Struct("<Q")
"""Of the line, which is first."""


@dataclass(frozen=True, slots=True)
class Message:
    """`kind` says what is wanted or was done."""

    kind: str
    arrays: Mapping[str, Array] = field(default_factory=dict)
    text: str = ""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends that keep messages apart."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST_TEXT)
    return ends


def send(end: Connection, message: Message) -> None:
    """Raises `OSError` where the other end is gone."""
    if isinstance(end, Sealed) or end.family != socket.AF_UNIX:
        stream.send_message(end, message.kind, message.text, message.arrays)
        return
    places, size = {}, 0
    for name, array in message.arrays.items():
        places[name] = (array.dtype.str, array.shape, size)
        size += -(-array.nbytes // _ALIGNED) * _ALIGNED
    line = json.dumps({"kind": message.kind, "text": message.text, "arrays": places}).encode()
    line += b" " * (-(_LENGTH.size + len(line)) % _ALIGNED)
    head = _LENGTH.pack(len(line)) + line
    if size <= _FOLLOWING:
        end.send(head + b"".join(_padded(array) for array in message.arrays.values()))
        return
    memory = os.memfd_create("pitcrew-message", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, size)
        with mmap.mmap(memory, size) as whole:
            for name, array in message.arrays.items():
                offset = places[name][2]
                whole[offset : offset + array.nbytes] = np.ascontiguousarray(array).tobytes()
        socket.send_fds(end, [head], [memory])
    finally:
        os.close(memory)


def receive(end: Connection) -> Message:
    """The next message. Raises `EOFError` where the other end is gone."""
    if isinstance(end, Sealed) or end.family != socket.AF_UNIX:
        kind, words, numbers = stream.receive_message(end)
        return Message(kind, numbers, words)
    # A buffer for the largest message would take longer than most messages do.
    size = end.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
    text, descriptors, _, _ = socket.recv_fds(end, size, 1) if size else (b"", [], 0, None)
    if not text:
        raise EOFError("the other end is gone")
    (length,) = _LENGTH.unpack_from(text)
    begin = _LENGTH.size + length
    header = json.loads(text[_LENGTH.size : begin])
    memory: mmap.mmap | memoryview = memoryview(bytearray(text[begin:]))
    if descriptors:
        memory = mmap.mmap(descriptors[0], 0)
        os.close(descriptors[0])
    arrays = {
        name: _array(memory, np.dtype(kind), tuple(shape), offset)
        for name, (kind, shape, offset) in header["arrays"].items()
    }
    return Message(header["kind"], arrays, header["text"])


def _padded(array: Array) -> bytes:
    return array.tobytes() + bytes(-array.nbytes % _ALIGNED)


def _array(
    memory: mmap.mmap | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int
) -> Array:
    size = math.prod(shape)
    if not size:
        return np.empty(shape, dtype)
    return np.frombuffer(memory, dtype, size, offset).reshape(shape)
