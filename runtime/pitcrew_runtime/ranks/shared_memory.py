"""How ranks on one machine exchange values: each puts its own into memory that the others read.

For every group of ranks there are two mailboxes a rank and a signal for every pair. Each rank puts
its value into its mailbox, signals the others and reads theirs when they have signalled. Two
mailboxes in turn save a second wait: a rank writes into one again only after the next exchange,
which the others reach when they have read it. Sums are taken in the group's order, on every rank
alike, so they are equal to the last bit wherever and however often they are computed.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import Exchange
from pitcrew_runtime.ranks.mailbox import Mailbox
from pitcrew_runtime.ranks.wiring import GroupWires, LinkWires, Wires

Array = NDArray[Any]


class SharedMemory:
    """The collective of ranks on one machine."""

    def __init__(self, rank: int, wires: Wires) -> None:
        self._groups = {tuple(group.ranks): _Group(rank, group) for group in wires.groups}
        self._out = {link.receiver: _Link(link) for link in wires.links if link.sender == rank}
        self._in = {link.sender: _Link(link) for link in wires.links if link.receiver == rank}

    def exchange(self, what: Exchange, value: Array) -> Array:
        """See `Collective`."""
        given = self._groups[what.group].all(value)
        if what.operator == "AllGather":
            return np.concatenate(given, axis=-1)
        total = given[0].copy()
        for part in given[1:]:
            total += part
        return total

    def send(self, value: Array, receiver: int) -> None:
        """See `Collective`."""
        self._out[receiver].put(value)

    def receive(self, sender: int) -> Array:
        """See `Collective`."""
        return self._in[sender].take()


class _Group:
    """One group, as one of its members sees it."""

    def __init__(self, rank: int, wires: GroupWires) -> None:
        self._ranks = wires.ranks
        self._rank = rank
        self._boxes = [
            {member: Mailbox(box) for member, box in zip(wires.ranks, half, strict=True)}
            for half in wires.boxes
        ]
        signals = {(one.sender, one.receiver): one.signal for one in wires.signals}
        others = [member for member in wires.ranks if member != rank]
        self._told = [signals[rank, other] for other in others]
        self._heard = [signals[other, rank] for other in others]
        self._turn = 0

    def all(self, value: Array) -> Sequence[Array]:
        """Everybody's value, in the group's order; views that stand until the exchange after next."""
        boxes: Mapping[int, Mailbox] = self._boxes[self._turn]
        self._turn ^= 1
        boxes[self._rank].write(value)
        for signal in self._told:
            os.eventfd_write(signal, 1)
        for signal in self._heard:
            os.eventfd_read(signal)
        return [value if one == self._rank else boxes[one].read() for one in self._ranks]


class _Link:
    """From a pipeline stage to the next; a step has one value for it at most."""

    def __init__(self, wires: LinkWires) -> None:
        self._box, self._signal = Mailbox(wires.box), wires.signal

    def put(self, value: Array) -> None:
        self._box.write(value)
        os.eventfd_write(self._signal, 1)

    def take(self) -> Array:
        os.eventfd_read(self._signal)
        return self._box.read()
