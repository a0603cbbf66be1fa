"""The only way into the node: 127.0.0.1:PORT here leads to an address in there.

`up` runs it as `python3 -m devcluster.forward PORT PID`, PID being the node's first process, to open
the way to the API server; `forward` leads to a Service. It ends with the node. The listening socket
is opened in this machine's network, then the process moves into the node's.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Callable
from functools import partial

from devcluster.config import API_PORT, NODE_IP

CLONE_NEWNET = 0x40000000
CHUNK = 64 * 1024


def enter_network(pid: int) -> None:
    """Move this process into the network namespace of process `pid`.

    Raises:
        OSError: the process is gone, or we are not root.
    """
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter the node's network namespace")
    finally:
        os.close(namespace)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _connect(
    address: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        inner = await asyncio.open_connection(*address)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, inner[1]), _copy(inner[0], writer))
    writer.close()
    inner[1].close()


async def _serve(listener: socket.socket, pid: int, address: tuple[str, int]) -> None:
    ended = asyncio.Event()
    watch = os.pidfd_open(pid)
    asyncio.get_running_loop().add_reader(watch, ended.set)
    async with await asyncio.start_server(partial(_connect, address), sock=listener):
        await ended.wait()


def forward(
    port: int, pid: int, address: tuple[str, int], announce: Callable[[int], None] | None = None
) -> None:
    """Lead 127.0.0.1:`port` (0: any free one) to `address` as the node sees it, until it ends.

    `announce` is told the port once connections are taken.
    """
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    enter_network(pid)
    if announce:
        announce(listener.getsockname()[1])
    asyncio.run(_serve(listener, pid, address))


if __name__ == "__main__":
    forward(int(sys.argv[1]), int(sys.argv[2]), (NODE_IP, API_PORT))
