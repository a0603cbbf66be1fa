"""What ranks do together: all that the network of one rank knows of the others.

Ranks without GPUs do it through shared memory and over TCP (`ranks.exchanges`). Ranks with a GPU each find
one another so, and exchange what lies on their GPUs by `gpu.nccl`.
"""

from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from pitcrew_builder.manifest import Exchange

Array = NDArray[Any]

Group: TypeAlias = tuple[int, ...]
"""Ranks that exchange values, in their order."""


class Collective(Protocol):
    """The other ranks, as one rank sees them. Every member calls the same in the same order."""

    def exchange(self, what: Exchange, value: Array) -> Array:
        """Give `value`; the sum of all members', or all of them side by side on the last axis."""
        ...

    def send(self, value: Array, receiver: int) -> None:
        """Hand `value` to another rank, which takes it before the step ends."""
        ...

    def receive(self, sender: int) -> Array:
        """Wait for what another rank hands over."""
        ...
