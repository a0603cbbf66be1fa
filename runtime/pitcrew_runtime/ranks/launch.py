"""Starts the ranks of one pod as processes."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.manifest import GraphInterface
from pitcrew_runtime.ranks.wiring import Wires, wire
from pitcrew_runtime.ranks.worker import Orders


@dataclass(frozen=True, slots=True)
class GroupShape:
    """What the ranks share."""

    engine: Path
    ranks: tuple[GraphInterface, ...]
    """All of them."""
    page_size: int
    adapter_slots: int
    threads: int
    """Of each rank."""
    tls: Path | None = None
    """Certificates for what leads to other pods; None leaves it in the open."""


def start(
    shape: GroupShape,
    controls: Mapping[int, socket.socket],
    peers: Mapping[int, Mapping[int, socket.socket]],
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start the ranks that have a control, each with its connections to peers; closes all of these."""
    here = range(min(controls), max(controls) + 1)
    wires = wire(shape.ranks, here)
    try:
        for number, control in controls.items():
            ends = {rank: end.fileno() for rank, end in peers.get(number, {}).items()}
            yield number, _start_rank(shape, number, here, control, wires.of(number, ends))
    finally:
        for descriptor in wires.descriptors:
            os.close(descriptor)
        for end in (*controls.values(), *(end for own in peers.values() for end in own.values())):
            end.close()


def ending(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = "; its memory may not have sufficed" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def _start_rank(
    shape: GroupShape, number: int, here: range, control: socket.socket, wires: Wires
) -> subprocess.Popen[bytes]:
    orders = Orders(
        engine=str(shape.engine),
        rank=number,
        adapter_slots=shape.adapter_slots,
        threads=shape.threads,
        control=control.fileno(),
        wires=wires,
        among=here.index(number),
        ranks_here=len(here),
        parent=os.getpid(),
        tls=str(shape.tls) if shape.tls else None,
    )
    words: Sequence[str] = (sys.executable, "-m", "pitcrew_runtime.ranks.worker")
    return subprocess.Popen(
        [*words, orders.model_dump_json()],
        pass_fds=[control.fileno(), *wires.descriptors],
        stdin=subprocess.DEVNULL,
    )
