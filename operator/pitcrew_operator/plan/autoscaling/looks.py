"""What was measured of the ready replicas, one look after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Replica:
    """What one replica told. None: it told nothing of that."""

    gpu: float | None = None
    """Percent, averaged over the GPUs that it holds."""
    waiting: float | None = None
    """Requests that have no place in the batch yet."""
    running: float | None = None
    """Requests in the batch."""
    kv: float | None = None
    """Percent of the KV cache in use."""


@dataclass(frozen=True)
class Look:
    """One look at all replicas that are ready."""

    age: float
    """Seconds since then, by a clock that never jumps."""
    replicas: tuple[Replica, ...] = ()
    first_token: float | None = None
    """Seconds to the first token, at the percentile that was asked for; 0 where no request came."""
    young: int = 0
    """Replicas that are ready and were not measured for the first time yet: as if they were warming."""


def within(looks: Sequence[Look], seconds: float, gap: float) -> tuple[Look, ...] | None:
    """The looks of the last so many seconds, and the one before; None where they do not cover them.

    `looks` has the newest first. Where two lie more than `gap` seconds apart nobody knows what was in
    between, so that what came before does not count.
    """
    found = list(_unbroken(looks, gap))
    inside = [look for look in found if look.age < seconds]
    return tuple(found[: len(inside) + 1]) if len(inside) < len(found) else None


def _unbroken(looks: Sequence[Look], gap: float) -> Iterator[Look]:
    if not looks or looks[0].age > gap:
        return
    yield looks[0]
    for newer, older in pairwise(looks):
        if older.age - newer.age > gap:
            return
        yield older
