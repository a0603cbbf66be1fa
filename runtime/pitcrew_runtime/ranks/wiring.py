"""What connects the ranks of a pod: files in memory and signals, by their descriptors.

Whoever starts the ranks makes them all; a rank inherits those that it needs, and connections to ranks
in other pods besides. They vanish with the last process that holds them, so nothing is left behind
however the group ends.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

from pitcrew_builder.manifest import GraphInterface
from pitcrew_builder.spec import Model


class SignalWire(Model):
    """An event descriptor that counts."""

    sender: int
    receiver: int
    signal: int


class GroupWires(Model):
    """Ranks that exchange values."""

    ranks: tuple[int, ...]
    here: tuple[int, ...]
    """Those of this pod."""
    boxes: tuple[tuple[int, ...], tuple[int, ...]]
    """Two for each rank of this pod."""
    signals: tuple[SignalWire, ...]


class LinkWires(Model):
    """A rank of a pipeline stage and the one that goes on with its rows."""

    sender: int
    receiver: int
    box: int
    signal: int


class PeerWire(Model):
    """A connection to a rank in another pod."""

    rank: int
    connection: int


class Wires(Model):
    """All that one rank, or the whole of a pod, hold."""

    groups: tuple[GroupWires, ...] = ()
    links: tuple[LinkWires, ...] = ()
    peers: tuple[PeerWire, ...] = ()
    """Of one rank."""

    def of(self, rank: int, peers: Mapping[int, int]) -> "Wires":
        """Those of one rank, whose connections lead to `peers`."""
        return Wires(
            groups=tuple(group for group in self.groups if rank in group.ranks),
            links=tuple(link for link in self.links if rank in (link.sender, link.receiver)),
            peers=tuple(PeerWire(rank=one, connection=end) for one, end in peers.items()),
        )

    @property
    def descriptors(self) -> list[int]:
        """Every one of them, once."""
        return [
            *(box for group in self.groups for half in group.boxes for box in half),
            *(wire.signal for group in self.groups for wire in group.signals),
            *(end for link in self.links for end in (link.box, link.signal)),
            *(peer.connection for peer in self.peers),
        ]


def next_stage(ranks: Sequence[GraphInterface], rank: int) -> int | None:
    """The rank that goes on with the rows of `rank`; None on the last stage.

    Ranks of a stage stand together, and each hands over to the one at its own place.
    """
    stages = 1 + max(_stage(one) for one in ranks)
    following = rank + len(ranks) // stages
    return following if following < len(ranks) else None


def previous_stage(ranks: Sequence[GraphInterface], rank: int) -> int | None:
    """The rank whose rows `rank` goes on with; None on the first stage."""
    return next((one for one in range(rank) if next_stage(ranks, one) == rank), None)


def exchange_groups(ranks: Sequence[GraphInterface]) -> list[tuple[int, ...]]:
    """The sets of ranks that exchange values, each once."""
    groups = {
        exchange.group: None
        for rank in ranks
        for segment in rank.segments
        for exchange in segment.exchanges
    }
    return list(groups)


def wire(ranks: Sequence[GraphInterface], here: range) -> Wires:
    """Make what the ranks of an engine that are `here` need. The caller closes the descriptors."""
    groups = [group for group in exchange_groups(ranks) if any(rank in here for rank in group)]
    return Wires(
        groups=tuple(_wire_group(group, here) for group in groups),
        links=tuple(_wire_links(ranks, here)),
    )


def _wire_group(ranks: tuple[int, ...], here: range) -> GroupWires:
    ours = tuple(rank for rank in ranks if rank in here)
    first, second = (tuple(_memory() for _ in ours) for _ in range(2))
    signals = (
        SignalWire(sender=sender, receiver=receiver, signal=_signal())
        for sender, receiver in permutations(ours, 2)
    )
    return GroupWires(ranks=ranks, here=ours, boxes=(first, second), signals=tuple(signals))


def _wire_links(ranks: Sequence[GraphInterface], here: range) -> Iterator[LinkWires]:
    for rank in here:
        following = next_stage(ranks, rank)
        if following in here:
            yield LinkWires(sender=rank, receiver=following, box=_memory(), signal=_signal())


def _stage(rank: GraphInterface) -> int:
    return rank.placement.pipeline if rank.placement is not None else 0


def _memory() -> int:
    return os.memfd_create("pitcrew-rank", os.MFD_CLOEXEC)


def _signal() -> int:
    return os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
