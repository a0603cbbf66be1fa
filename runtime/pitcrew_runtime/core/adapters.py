"""Which adapter lies in which slot of the executor: a bounded set, the least recently used gives way.

An adapter is a change to the network (LoRA) that some requests ask for. The executor has a fixed
number of slots for them; slot 0 is no adapter. A slot is pinned while a running sequence uses it, so
its adapter cannot be exchanged under anybody's feet. The file knows no tensor and no scheduler.
"""

from collections.abc import Mapping
from typing import Protocol

from pitcrew_runtime.errors import InvariantViolated

NO_ADAPTER = 0
"""The slot of sequences that want the network as it is."""


class Adapter(Protocol):
    """What the heart knows of an adapter. Whoever refers to one keeps its weights in memory."""

    @property
    def identity(self) -> str:
        """Digest of its contents. Keys and values computed under one adapter serve no other."""
        ...


class NoSlotFree(Exception):
    """Every slot is pinned by another adapter."""


class AdapterSlots:
    """Slots 1 to `count`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._slot_of: dict[str, int] = {}
        self._identity: dict[int, str] = {}
        self._pins: dict[int, int] = {}
        self._pinned: dict[int, Adapter] = {}
        # Unpinned slots, the one that was used longest ago first.
        self._idle = dict.fromkeys(range(1, count + 1))

    @property
    def pinned(self) -> Mapping[int, Adapter]:
        """The adapters of running sequences, by slot: a live view."""
        return self._pinned

    def has_room(self, adapter: Adapter | None) -> bool:
        """Whether `take` would succeed."""
        return adapter is None or adapter.identity in self._slot_of or bool(self._idle)

    def take(self, adapter: Adapter | None) -> int:
        """Pin the adapter's slot, giving it one where it has none. Raises `NoSlotFree`."""
        if adapter is None:
            return NO_ADAPTER
        slot = self._slot_of.get(adapter.identity)
        if slot is None:
            slot = self._assign(adapter.identity)
        self._idle.pop(slot, None)
        self._pins[slot] = self._pins.get(slot, 0) + 1
        self._pinned.setdefault(slot, adapter)
        return slot

    def release(self, slot: int) -> None:
        """Take back one pin. The adapter stays in its slot until another one needs it."""
        if slot == NO_ADAPTER:
            return
        if slot not in self._pins:
            raise InvariantViolated(f"adapter slot {slot} is released and was not taken")
        self._pins[slot] -= 1
        if not self._pins[slot]:
            del self._pins[slot], self._pinned[slot]
            self._idle[slot] = None

    def _assign(self, identity: str) -> int:
        slot: int | None = next(iter(self._idle), None)
        if slot is None:
            raise NoSlotFree(f"all {self.count} adapter slots are in use")
        before = self._identity.get(slot)
        if before is not None:
            del self._slot_of[before]
        self._identity[slot], self._slot_of[identity] = identity, slot
        return slot
