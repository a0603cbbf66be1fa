"""What ranks do together: all that the network of one rank knows of the others.

Ranks without GPUs do it through shared memory and over TCP (`ranks.exchanges`); ranks with a GPU
each can bring another way.
"""

from typing import Any, Protocol

from numpy.typing import NDArray

from pitcrew_builder.manifest import Exchange

Array = NDArray[Any]


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
