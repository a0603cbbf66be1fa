"""What each signal makes of a look: how many replicas it asks for.

A load (utilization, cache, requests) is a sum that replicas share: it asks for as many as keep each within
the target. A replica that tells nothing counts as if it were on its target, and is told of. The time to
the first token is no sum: it asks for one more where it is too long, for one fewer at half of that.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pitcrew_operator.plan.autoscaling.looks import Look, Replica

_ROUNDING: Final = 1e-9
_AMPLE: Final = 0.5


class Signal(StrEnum):
    """By the fields of the spec."""

    GPU = "gpuUtilization"
    WAITING = "waitingRequests"
    KV = "kvCacheUsage"
    TTFT = "timeToFirstToken"


@dataclass(frozen=True)
class Targets:
    """What each signal is held against. None: it does not vote."""

    gpu: float | None = None
    """Percent."""
    waiting: float | None = None
    """Requests for each replica."""
    kv: float | None = None
    """Percent."""
    first_token: float | None = None
    """Seconds."""
    slots: int = 1
    """Requests that one replica takes into its batch."""

    def below(self, part: float) -> "Targets":
        """Those of the loads lower by this part, so that whoever keeps them has room left."""
        kept = 1 - part
        return replace(
            self,
            gpu=None if self.gpu is None else self.gpu * kept,
            waiting=None if self.waiting is None else self.waiting * kept,
            kv=None if self.kv is None else self.kv * kept,
        )


@dataclass(frozen=True)
class Vote:
    """What one signal says."""

    signal: Signal
    target: float
    current: float | None
    """Over the replicas that tell; None: none does."""
    wanted: int | None
    """Replicas that it asks for; None where it knows nothing."""
    missing: int = 0
    """Replicas that are ready and tell nothing."""

    @property
    def is_whole(self) -> bool:
        """Whether every replica told."""
        return self.wanted is not None and self.missing == 0

    @property
    def is_above(self) -> bool:
        """Whether the target is passed, be it by the least."""
        return self.current is not None and self.current > self.target * (1 + _ROUNDING)


def votes(targets: Targets, look: Look) -> tuple[Vote, ...]:
    """One of each signal that has a target."""
    return tuple(_votes(targets, look))


def asked(found: Sequence[Vote]) -> int | None:
    """Replicas that are asked for, by whoever asks for most; None where nobody knows anything."""
    return max((vote.wanted for vote in found if vote.wanted is not None), default=None)


def _votes(targets: Targets, look: Look) -> Iterator[Vote]:
    replicas = look.replicas
    if targets.gpu is not None:
        yield _shared(Signal.GPU, targets.gpu, [replica.gpu for replica in replicas])
    if targets.waiting is not None:
        yield _queued(targets.waiting, targets.slots, replicas)
    if targets.kv is not None:
        yield _shared(Signal.KV, targets.kv, [replica.kv for replica in replicas])
    if targets.first_token is not None:
        yield _timed(targets.first_token, look)


def _shared(signal: Signal, target: float, values: Sequence[float | None]) -> Vote:
    told = [value for value in values if value is not None]
    if not told:
        return Vote(signal, target, None, None, len(values))
    missing = len(values) - len(told)
    return Vote(signal, target, sum(told) / len(told), _ceil(sum(told) / target) + missing, missing)


def _queued(target: float, slots: int, replicas: Sequence[Replica]) -> Vote:
    """A replica where requests wait is full, whatever keeps them out of its batch. With fewer replicas
    those that run would have to fit as well.
    """
    told = [(r.waiting, r.running or 0.0) for r in replicas if r.waiting is not None]
    missing = len(replicas) - len(told)
    if not told:
        return Vote(Signal.WAITING, target, None, None, missing)
    average = sum(waiting for waiting, _ in told) / len(told)
    load = sum(waiting + (max(slots, running) if waiting else running) for waiting, running in told)
    wanted = _ceil(load / (slots + target))
    vote = Vote(Signal.WAITING, target, average, wanted + missing, missing)
    if vote.is_above and wanted <= len(told):
        return Vote(Signal.WAITING, target, average, len(told) + 1 + missing, missing)
    return vote


def _timed(target: float, look: Look) -> Vote:
    present, seconds = len(look.replicas), look.first_token
    if seconds is None or not present:
        return Vote(Signal.TTFT, target, None, None, present)
    vote = Vote(Signal.TTFT, target, seconds, present)
    more = 1 if vote.is_above else -1 if seconds <= _AMPLE * target else 0
    return Vote(Signal.TTFT, target, seconds, present + more)


def _ceil(number: float) -> int:
    """Rounded up, but for what arithmetic alone has added."""
    return math.ceil(number * (1 - _ROUNDING))
