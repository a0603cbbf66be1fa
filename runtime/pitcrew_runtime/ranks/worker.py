"""One rank: a process that computes its part of every step, as its leader says.

Started by `ranks.launch` with its orders as the only argument. It reads files that whoever started it
has verified. It ends with its leader and with its pod, whatever becomes of them.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import MANIFEST_NAME, Manifest
from pitcrew_builder.spec import Model
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.ranks import wire
from pitcrew_runtime.ranks.exchanges import Exchanges, PeerLost
from pitcrew_runtime.ranks.messages import (
    LOGITS,
    PAGES,
    TOKENS,
    Kind,
    adapter_of,
    free_message,
    limits_of,
    step_of,
)
from pitcrew_runtime.ranks.part import Part, Place, Ready, load_part
from pitcrew_runtime.ranks.sealed import Connection, seal
from pitcrew_runtime.ranks.wiring import Wires, next_stage

Array = NDArray[Any]

logger = logging.getLogger(__name__)

_OTHERS_FIRST_SECONDS = 3.0


class Orders(Model):
    """What a rank is to be."""

    engine: str
    rank: int
    adapter_slots: int
    threads: int
    control: int
    """The socket to the leader."""
    wires: Wires
    among: int
    """Its number among the ranks of its pod."""
    ranks_here: int
    parent: int
    """The process id of whoever starts it."""
    tls: str | None = None
    """A folder of certificates for connections to other pods."""

    @property
    def certificates(self) -> Path | None:
        """The same as a path."""
        return Path(self.tls) if self.tls else None


def main() -> None:
    """Serve until the leader is gone."""
    orders = Orders.model_validate_json(sys.argv[1])
    _leave_with(orders.parent)
    # A terminal's interrupt reaches the whole group; the leader decides when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.closing(_control(orders)) as end:
        try:
            _serve(end, orders)
        except LeaderGone:
            sys.exit("the leader is gone")
        except Exception as error:
            if isinstance(error, PeerLost):
                # Whoever is lost is the reason, and the leader is about to learn of it.
                _wait_for_the_end(end, _OTHERS_FIRST_SECONDS)
            logger.exception("Rank %d cannot go on", orders.rank)
            wire.send(end, wire.Message(Kind.FAILED, text=f"{type(error).__name__}: {error}"))
            # The leader reads this before it ends the group: an exit would be the reason otherwise.
            _wait_for_the_end(end)


def _control(orders: Orders) -> Connection:
    end = socket.socket(fileno=orders.control)
    if end.family == socket.AF_UNIX:
        return end
    try:
        return seal(end, orders.certificates, f"rank {orders.rank}", answers=False)
    except (OSError, EOFError) as error:
        sys.exit(f"the connection to the leader cannot be sealed: {error}")


class LeaderGone(Exception):
    """Nobody is there to say why to."""


def _next(end: Connection) -> wire.Message:
    try:
        return wire.receive(end)
    except (EOFError, OSError):
        raise LeaderGone from None


def _wait_for_the_end(end: Connection, seconds: float | None = None) -> None:
    """Of the connection to the leader, after which there is nobody to speak to."""
    end.settimeout(seconds)
    try:
        while end.recv(1 << 16):
            pass
    except TimeoutError:
        end.settimeout(None)
        return
    except OSError:
        pass
    sys.exit("the leader is gone")


def _serve(end: Connection, orders: Orders) -> None:
    root = Path(orders.engine)
    manifest = Manifest.model_validate_json((root / MANIFEST_NAME).read_bytes())
    place = Place(
        orders.rank,
        orders.among,
        orders.ranks_here,
        Exchanges(orders.rank, orders.wires, orders.certificates),
    )
    speaks = _speaks(orders) and next_stage(manifest.ranks, orders.rank) is None

    def load(limits: Limits) -> Ready:
        return load_part(root, manifest, place, limits, orders.threads, orders.adapter_slots)

    follow(end, load, speaks=speaks)


def follow(end: Connection, load: Callable[[Limits], Ready], *, speaks: bool) -> NoReturn:
    """Do what the leader says until it is gone; only one rank `speaks` of what all computed."""
    ready = load(limits_of(_next(end)))
    wire.send(end, wire.Message(Kind.DONE))
    while (message := _next(end)).kind == Kind.FREE:
        # What weights have left of the memory decides how many pages there are.
        wire.send(end, free_message(ready.free()))
    part = ready.part(int(message.arrays[PAGES]))
    wire.send(end, wire.Message(Kind.DONE))
    while True:
        message = _next(end)
        if message.kind == Kind.COPY:
            part.copy([(source, target) for source, target in message.arrays["pairs"].tolist()])
        elif message.kind == Kind.ADAPTER:
            slot, adapter = adapter_of(message)
            part.hold({slot: adapter})
        else:
            wire.send(end, wire.Message(Kind.DONE, _computed(part, message, speaks=speaks)))


def _computed(part: Part, message: wire.Message, *, speaks: bool) -> dict[str, Array]:
    packed = step_of(message)
    if not speaks:
        part.compute(packed)
        return {}
    if message.kind == Kind.TOKENS:
        return {TOKENS: part.likeliest(packed)}
    return {LOGITS: np.ascontiguousarray(part.run(packed))}


def _speaks(orders: Orders) -> bool:
    """All ranks of the last stage have the logits; the first of them says them."""
    mates = [group.ranks for group in orders.wires.groups if orders.rank in group.ranks]
    return all(orders.rank == min(ranks) for ranks in mates)


def _leave_with(parent: int) -> None:
    """End this process when its parent ends, whatever it waits for then."""

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os._exit(1)

    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        sys.exit("whoever started this rank is gone")
    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    main()
