"""Runs builds in forked children, each of which may get a signal at its N-th touch of the store,
or after some time.

Python's audit events mark each open, mkdir, rename, lock and removal, so a point in a build is a
number and not a matter of timing. As a program it reads one `Order` a line, as JSON, and answers
with one `Ending` a line; forking from it spares every build the imports.
"""

import json
import os
import resource
import select
import signal
import sys
from dataclasses import asdict, dataclass

_WATCHED = {
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.listdir",
    "os.scandir",
    "fcntl.flock",
    "shutil.rmtree",
}


@dataclass(frozen=True)
class Order:
    """One build, and what befalls it."""

    arguments: list[str]
    store: str
    signal: int = 0
    at: int = 0
    """The touch at which the signal comes; 0 for never."""
    file_limit: int = 0
    """Bytes beyond which no file may grow; 0 for no limit."""
    after: float = 0.0
    """Seconds after which the signal comes from outside; 0 for never."""


@dataclass(frozen=True)
class Ending:
    """How a build ended: exit code, or minus the signal that killed it."""

    code: int
    touches: int


class Bomb:
    """An audit hook that counts, and goes off once."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.touches = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in _WATCHED:
            return
        if event != "fcntl.flock" and not any(self.order.store in str(item) for item in arguments):
            return
        self.touches += 1
        if self.touches == self.order.at:
            os.kill(os.getpid(), self.order.signal)


def _run(order: Order, count: int) -> int:
    from pitcrew_builder.cli import main as build

    if order.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.file_limit, order.file_limit))
    bomb = Bomb(order)
    sys.addaudithook(bomb)
    code = build(order.arguments)
    os.write(count, str(bomb.touches).encode())
    return code


def _fork(order: Order) -> Ending:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        os._exit(_run(order, writer))
    os.close(writer)
    if order.after and not select.select([reader], [], [], order.after)[0]:
        os.kill(child, order.signal)
    with os.fdopen(reader) as stream:
        touches = stream.read()
    _, status = os.waitpid(child, 0)
    return Ending(os.waitstatus_to_exitcode(status), int(touches or 0))


def main() -> None:
    """Serve orders until standard input ends."""
    import numpy  # noqa: F401
    import onnx  # noqa: F401

    import pitcrew_builder.pipeline
    import pitcrew_builder.sources.local  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        print(json.dumps(asdict(_fork(Order(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    main()
