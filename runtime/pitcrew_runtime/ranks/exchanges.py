"""How ranks exchange values: each puts its own into memory that the others of its pod read.

For every group of ranks in a pod there are two mailboxes a rank and a signal for every pair. Each rank puts
its value into its mailbox, signals the others and reads theirs when they have signalled. Two
mailboxes in turn save a second wait: a rank writes into one again only after the next exchange,
which the others reach when they have read it. Ranks of other pods
are sent the value, and send theirs. Sums are taken in the group's order, on every rank alike, so they
are equal to the last bit wherever and however often they are computed.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import Exchange
from pitcrew_runtime.ranks.mailbox import Mailbox
from pitcrew_runtime.ranks.sealed import Connection, seal
from pitcrew_runtime.ranks.stream import receive_value, send_value, swap
from pitcrew_runtime.ranks.wiring import GroupWires, LinkWires, PeerWire, Wires

Array = NDArray[Any]


class PeerLost(Exception):
    """The connection to a rank in another pod is broken."""


class Exchanges:
    """The collective of ranks on CPUs. Its methods raise `PeerLost`."""

    def __init__(self, rank: int, wires: Wires, tls: Path | None = None) -> None:
        """`tls` is a folder of certificates. Raises `PeerLost` where a peer is not trusted."""
        # All seal in one order, so nobody waits for somebody who waits.
        peers = sorted(wires.peers, key=lambda peer: peer.rank)
        self._peers = {peer.rank: _sealed(rank, peer, tls) for peer in peers}
        self._groups = {
            tuple(group.ranks): _Group(rank, group, self._peers) for group in wires.groups
        }
        self._out = {link.receiver: _Link(link) for link in wires.links if link.sender == rank}
        self._in = {link.sender: _Link(link) for link in wires.links if link.receiver == rank}

    def exchange(self, what: Exchange, value: Array) -> Array:
        """See `Collective`."""
        with _to(what.group):
            given = self._groups[what.group].all(value)
        if what.operator == "AllGather":
            return np.concatenate(given, axis=-1)
        total = given[0].copy()
        for part in given[1:]:
            total += part
        return total

    def send(self, value: Array, receiver: int) -> None:
        """See `Collective`."""
        if receiver in self._peers:
            with _to(receiver):
                send_value(self._peers[receiver], value)
        else:
            self._out[receiver].put(value)

    def receive(self, sender: int) -> Array:
        """See `Collective`."""
        if sender in self._peers:
            with _to(sender):
                return receive_value(self._peers[sender])
        return self._in[sender].take()


def _sealed(rank: int, peer: PeerWire, tls: Path | None) -> Connection:
    first, second = sorted((rank, peer.rank))
    with _to(peer.rank):
        end = socket.socket(fileno=peer.connection)
        return seal(end, tls, f"pair {first}-{second}", answers=rank == first)


@contextlib.contextmanager
def _to(ranks: object) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise PeerLost(f"the connection to {ranks} broke: {error}") from error


class _Group:
    """One group, as one of its members sees it."""

    def __init__(self, rank: int, wires: GroupWires, peers: Mapping[int, Connection]) -> None:
        self._ranks = wires.ranks
        self._rank = rank
        self._elsewhere = {one: peers[one] for one in wires.ranks if one not in wires.here}
        self._boxes = [
            {member: Mailbox(box) for member, box in zip(wires.here, half, strict=True)}
            for half in wires.boxes
        ]
        signals = {(one.sender, one.receiver): one.signal for one in wires.signals}
        others = [member for member in wires.here if member != rank]
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
        values = swap(self._elsewhere, value)
        for signal in self._heard:
            os.eventfd_read(signal)
        values |= {one: box.read() for one, box in boxes.items() if one != self._rank}
        values[self._rank] = value
        return [values[one] for one in self._ranks]


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
