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
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pitcrew_builder.manifest import MANIFEST_NAME, Manifest
from pitcrew_builder.spec import Model
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.onnx_network import (
    Neighbours,
    OnnxNetwork,
    Segment,
)
from pitcrew_runtime.execution.program import open_session
from pitcrew_runtime.execution.resources import free_memory
from pitcrew_runtime.ranks import wire
from pitcrew_runtime.ranks.exchanges import Exchanges, PeerLost
from pitcrew_runtime.ranks.messages import PAGES, Kind, adapter_of, loaded_message, step_of
from pitcrew_runtime.ranks.sealed import Connection, seal
from pitcrew_runtime.ranks.wiring import Wires, next_stage, previous_stage

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
        except _LeaderGone:
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


class _LeaderGone(Exception):
    """Nobody is there to say why to."""


def _next(end: Connection) -> wire.Message:
    try:
        return wire.receive(end)
    except (EOFError, OSError):
        raise _LeaderGone from None


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
    rank = manifest.ranks[orders.rank]
    parts = [(part.graph, part.exchanges) for part in rank.segments] or [(rank.graph, ())]
    segments = [Segment(open_session(root / file, orders.threads), after) for file, after in parts]
    # What weights have left of the memory decides how many pages there are.
    wire.send(end, loaded_message(free_memory()))
    pages = int(_next(end).arrays[PAGES])
    network = _network(orders, manifest, segments, pages)
    wire.send(end, wire.Message(Kind.DONE))
    while True:
        message = _next(end)
        if message.kind == Kind.COPY:
            network.copy([(source, target) for source, target in message.arrays["pairs"].tolist()])
        elif message.kind == Kind.ADAPTER:
            slot, adapter = adapter_of(message)
            network.hold({slot: adapter})
        else:
            logits = network.run_rank(step_of(message))
            speaks = logits is not None and _speaks(orders)
            arrays = {"logits": np.ascontiguousarray(logits)} if speaks else {}
            wire.send(end, wire.Message(Kind.DONE, arrays))


def _network(
    orders: Orders, manifest: Manifest, segments: Sequence[Segment], pages: int
) -> OnnxNetwork:
    rank = manifest.ranks[orders.rank]
    assert rank.placement is not None
    lora = manifest.identity.lora
    return OnnxNetwork(
        segments,
        PoolShape(
            layers=rank.placement.layers,
            pages=pages,
            page_size=manifest.identity.shapes.kv_page_size,
            kv_heads=rank.placement.kv_heads,
            head_dim=manifest.model.head_dim,
            kv_dtype=rank.kv_dtype,
            first_layer=rank.placement.first_layer,
        ),
        AdapterPool(rank.lora, orders.adapter_slots, lora.max_rank) if lora else None,
        Neighbours(
            Exchanges(orders.rank, orders.wires, orders.certificates),
            previous_stage(manifest.ranks, orders.rank),
            next_stage(manifest.ranks, orders.rank),
        ),
    )


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
