"""One rank: a process that computes its part of every step, as its leader says.

Started by `ranks.group` with its orders as the only argument. It reads files that the leader has
verified. It ends with its leader, whatever becomes of either.
"""

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
    open_session,
)
from pitcrew_runtime.ranks import wire
from pitcrew_runtime.ranks.messages import PAGES, Kind, adapter_of, step_of
from pitcrew_runtime.ranks.shared_memory import SharedMemory
from pitcrew_runtime.ranks.wiring import Wires

logger = logging.getLogger(__name__)


class Orders(Model):
    """What a rank is to be."""

    engine: str
    rank: int
    adapter_slots: int
    threads: int
    control: int
    """The socket to the leader."""
    wires: Wires
    leader: int
    """The leader's process id."""


def main() -> None:
    """Serve until the leader is gone."""
    orders = Orders.model_validate_json(sys.argv[1])
    _leave_with(orders.leader)
    # A terminal's interrupt reaches the whole group; the leader decides when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=orders.control) as end:
        try:
            _serve(end, orders)
        except Exception as error:
            logger.exception("Rank %d cannot go on", orders.rank)
            wire.send(end, wire.Message(Kind.FAILED, text=f"{type(error).__name__}: {error}"))
            # The leader reads this before it ends the group: an exit would be the reason otherwise.
            signal.pause()


def _serve(end: socket.socket, orders: Orders) -> None:
    root = Path(orders.engine)
    manifest = Manifest.model_validate_json((root / MANIFEST_NAME).read_bytes())
    rank = manifest.ranks[orders.rank]
    parts = [(part.graph, part.exchanges) for part in rank.segments] or [(rank.graph, ())]
    segments = [Segment(open_session(root / file, orders.threads), after) for file, after in parts]
    wire.send(end, wire.Message(Kind.DONE))
    # What weights have left of the memory decides how many pages there are.
    pages = int(wire.receive(end).arrays[PAGES])
    network = _network(orders, manifest, segments, pages)
    wire.send(end, wire.Message(Kind.DONE))
    while True:
        message = wire.receive(end)
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
    links, lora = orders.wires.links, manifest.identity.lora
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
            SharedMemory(orders.rank, orders.wires),
            next((link.sender for link in links if link.receiver == orders.rank), None),
            next((link.receiver for link in links if link.sender == orders.rank), None),
        ),
    )


def _speaks(orders: Orders) -> bool:
    """All ranks of the last stage have the logits; the first of them says them."""
    mates = [group.ranks for group in orders.wires.groups if orders.rank in group.ranks]
    return all(orders.rank == min(ranks) for ranks in mates)


def _leave_with(leader: int) -> None:
    """End this process when the leader's ends, whatever it waits for then."""

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os._exit(1)

    try:
        descriptor = os.pidfd_open(leader)
    except ProcessLookupError:
        sys.exit("the leader is gone")
    threading.Thread(target=watch, name="leader", daemon=True).start()


if __name__ == "__main__":
    main()
