"""What the leader asks of its ranks, as messages."""

from enum import StrEnum

import numpy as np

from pitcrew_runtime.adapters.weights import LoraWeights, LowRank
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.execution.packing import Packed
from pitcrew_runtime.ranks.wire import Message

PAGES = "pages"
"""Name of the one array of a `Kind.POOL`."""

FREE = "free"
"""Name of the one array of the answer to a `Kind.FREE`."""

LOGITS, TOKENS = "logits", "tokens"
"""Names of the one array of what the rank that speaks answers to a `Kind.STEP` or `Kind.TOKENS`."""

_LIMITS = ("max_running", "max_step_tokens", "max_sequence_length", "page_size", "lookahead")
_SLOTS, _TAKE = "slots", "take"
_DOWN, _UP = "down:", "up:"


class Kind(StrEnum):
    """Of messages, to a rank and from it."""

    LOAD = "load"
    FREE = "free"
    POOL = "pool"
    STEP = "step"
    TOKENS = "tokens"
    COPY = "copy"
    ADAPTER = "adapter"
    DONE = "done"
    FAILED = "failed"


def load_message(limits: Limits) -> Message:
    """Load your part, for runs within these limits."""
    numbers = {name: np.asarray(getattr(limits, name), np.int64) for name in _LIMITS}
    return Message(Kind.LOAD, numbers)


def limits_of(message: Message) -> Limits:
    """What of the limits `load_message` was given bounds a run; nobody waits at a rank."""
    running, tokens, length, page, lookahead = (int(message.arrays[name]) for name in _LIMITS)
    return Limits(running, tokens, 1, length, page, lookahead=lookahead)


def free_message(free: int) -> Message:
    """So many bytes of memory are left where a rank has its pages."""
    return Message(Kind.DONE, {FREE: np.asarray(free, np.int64)})


def pool_message(pages: int) -> Message:
    """Make pools of so many pages."""
    return Message(Kind.POOL, {PAGES: np.asarray(pages, np.int64)})


def step_message(packed: Packed, kind: Kind) -> Message:
    """Compute one run of the network; the kind says what of it is to be told."""
    return Message(kind, {**packed.inputs, _SLOTS: packed.slots, _TAKE: packed.take})


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
