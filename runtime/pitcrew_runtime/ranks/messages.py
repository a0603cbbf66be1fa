"""What the leader asks of its ranks, as messages."""

from enum import StrEnum

import numpy as np

from pitcrew_runtime.adapters.weights import LoraWeights, LowRank
from pitcrew_runtime.execution.packing import Packed
from pitcrew_runtime.ranks.wire import Message

PAGES = "pages"
"""Name of the one array of a `Kind.POOL`."""

FREE = "free"
"""Name of the one array of the answer of a rank that has loaded its part."""

_SLOTS, _TAKE = "slots", "take"
_DOWN, _UP = "down:", "up:"


class Kind(StrEnum):
    """Of messages, to a rank and from it."""

    POOL = "pool"
    STEP = "step"
    COPY = "copy"
    ADAPTER = "adapter"
    DONE = "done"
    FAILED = "failed"


def loaded_message(free: int) -> Message:
    """A rank has loaded its part; so many bytes of memory are left where it runs."""
    return Message(Kind.DONE, {FREE: np.asarray(free, np.int64)})


def pool_message(pages: int) -> Message:
    """Make pools of so many pages."""
    return Message(Kind.POOL, {PAGES: np.asarray(pages, np.int64)})


def step_message(packed: Packed) -> Message:
    """Compute one run of the network."""
    return Message(Kind.STEP, {**packed.inputs, _SLOTS: packed.slots, _TAKE: packed.take})


def step_of(message: Message) -> Packed:
    """What `step_message` was given."""
    inputs = dict(message.arrays)
    return Packed(slots=inputs.pop(_SLOTS), take=inputs.pop(_TAKE), inputs=inputs)


def adapter_message(slot: int, adapter: LoraWeights) -> Message:
    """Put a whole adapter into a slot; each rank takes its part."""
    arrays = {f"{_DOWN}{module}": change.down for module, change in adapter.changes.items()}
    arrays |= {f"{_UP}{module}": change.up for module, change in adapter.changes.items()}
    return Message(Kind.ADAPTER, arrays, f"{slot} {adapter.identity}")


def adapter_of(message: Message) -> tuple[int, LoraWeights]:
    """What `adapter_message` was given."""
    slot, identity = message.text.split()
    changes = {
        name.removeprefix(_DOWN): LowRank(down, message.arrays[_UP + name.removeprefix(_DOWN)])
        for name, down in message.arrays.items()
        if name.startswith(_DOWN)
    }
    return int(slot), LoraWeights(identity, changes)
