"""What connects the ranks of an engine: files in memory and signals, by their descriptors.

The leader makes them all; a rank inherits those that it needs. They vanish with the last process
that holds them, so nothing is left behind however the group ends.
"""

import os
from collections.abc import Iterator, Sequence
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
    boxes: tuple[tuple[int, ...], tuple[int, ...]]
    """Two for each rank."""
    signals: tuple[SignalWire, ...]


class LinkWires(Model):
    """A rank of a pipeline stage and the one that goes on with its rows."""

    sender: int
    receiver: int
    box: int
    signal: int


class Wires(Model):
    """All that one rank, or the whole of them, hold."""

    groups: tuple[GroupWires, ...] = ()
    links: tuple[LinkWires, ...] = ()

    def of(self, rank: int) -> "Wires":
        """Those of one rank."""
        return Wires(
            groups=tuple(group for group in self.groups if rank in group.ranks),
            links=tuple(link for link in self.links if rank in (link.sender, link.receiver)),
        )

    @property
    def descriptors(self) -> list[int]:
        """Every one of them, once."""
        return [
            *(box for group in self.groups for half in group.boxes for box in half),
            *(wire.signal for group in self.groups for wire in group.signals),
            *(end for link in self.links for end in (link.box, link.signal)),
        ]


def next_stage(ranks: Sequence[GraphInterface], rank: int) -> int | None:
    """The rank that goes on with the rows of `rank`; None on the last stage.

    Ranks of a stage stand together, and each hands over to the one at its own place.
    """
    stages = 1 + max(_stage(one) for one in ranks)
    following = rank + len(ranks) // stages
    return following if following < len(ranks) else None


def wire(ranks: Sequence[GraphInterface]) -> Wires:
    """Make what the ranks of an engine need. The caller closes the descriptors."""
    groups = {
        exchange.group: None
        for rank in ranks
        for segment in rank.segments
        for exchange in segment.exchanges
    }
    return Wires(groups=tuple(map(_wire_group, groups)), links=tuple(_wire_links(ranks)))


def _wire_group(ranks: tuple[int, ...]) -> GroupWires:
    first, second = (tuple(_memory() for _ in ranks) for _ in range(2))
    signals = (
        SignalWire(sender=sender, receiver=receiver, signal=_signal())
        for sender, receiver in permutations(ranks, 2)
    )
    return GroupWires(ranks=ranks, boxes=(first, second), signals=tuple(signals))


def _wire_links(ranks: Sequence[GraphInterface]) -> Iterator[LinkWires]:
    for rank in range(len(ranks)):
        following = next_stage(ranks, rank)
        if following is not None:
            yield LinkWires(sender=rank, receiver=following, box=_memory(), signal=_signal())


def _stage(rank: GraphInterface) -> int:
    return rank.placement.pipeline if rank.placement is not None else 0


def _memory() -> int:
    return os.memfd_create("pitcrew-rank", os.MFD_CLOEXEC)


def _signal() -> int:
    return os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
