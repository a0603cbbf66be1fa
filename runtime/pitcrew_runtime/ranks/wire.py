"""Messages between the leader and a rank: a line of JSON, and arrays in memory that goes with it.

The arrays lie in a file in memory whose descriptor travels beside the text, so their size is free
and they are never copied through the socket. To a rank in another pod they are sent. Numbers are all
that can be sent: nothing that is received is ever executed.
"""

import json
import mmap
import os
import socket
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
    text = json.dumps({"kind": message.kind, "text": message.text, "arrays": places}).encode()
    if not size:
        end.send(text)
        return
    memory = os.memfd_create("pitcrew-message", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, size)
        with mmap.mmap(memory, size) as whole:
            for name, array in message.arrays.items():
                offset = places[name][2]
                whole[offset : offset + array.nbytes] = np.ascontiguousarray(array).tobytes()
        socket.send_fds(end, [text], [memory])
    finally:
        os.close(memory)


def receive(end: Connection) -> Message:
    """The next message. Raises `EOFError` where the other end is gone."""
    if isinstance(end, Sealed) or end.family != socket.AF_UNIX:
        kind, words, numbers = stream.receive_message(end)
        return Message(kind, numbers, words)
    text, descriptors, _, _ = socket.recv_fds(end, _LARGEST_TEXT, 1)
    if not text:
        raise EOFError("the other end is gone")
    header = json.loads(text)
    memory = None
    if descriptors:
        memory = mmap.mmap(descriptors[0], 0)
        os.close(descriptors[0])
    arrays = {
        name: _array(memory, np.dtype(kind), tuple(shape), offset)
        for name, (kind, shape, offset) in header["arrays"].items()
    }
    return Message(header["kind"], arrays, header["text"])


def _array(
    memory: mmap.mmap | None, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int
) -> Array:
    size = int(np.prod(shape))
    if memory is None or not size:
        return np.empty(shape, dtype)
    return np.frombuffer(memory, dtype, size, offset).reshape(shape)
