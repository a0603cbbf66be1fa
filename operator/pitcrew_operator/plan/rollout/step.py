"""One safe step from the replicas that there are to those that there should be.

Two promises, whatever was done before and whatever the aim is now:

- replicas are taken away only where at least `minimum` stay available (or as many as are, where
  there are fewer), and
- replicas are added only where no more than `maximum` exist afterwards.

What a step frees is used by the next one, once the cluster shows it. Nothing is added while a
workload has not taken notice of what it was last told, for then nobody knows what exists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How far the number of replicas may stray during a change."""

    replicas: int
    """That should serve."""
    surge: int
    """That may exist on top of them."""
    unavailable: int
    """That may be missing."""

    def __post_init__(self) -> None:
        if self.surge < 1 and self.unavailable < 1:
            raise ValueError("surge and unavailable are both 0: nothing could ever move")

    @property
    def minimum(self) -> int:
        """Available replicas that no step may go under."""
        return max(0, self.replicas - self.unavailable)

    @property
    def maximum(self) -> int:
        """Replicas that no step may go over."""
        return self.replicas + self.surge


@dataclass(frozen=True)
class Count:
    """The replicas of one revision."""

    wanted: int
    """That its workload was told to keep."""
    present: int
    """That exist, as far as was heard."""
    available: int
    """That serve, as far as was heard."""
    settled: bool = True
    """Its workload has taken notice of `wanted`."""
    drops_idle_first: bool = True
    """Whether a workload that is told to keep fewer takes away those that do not serve."""

    @property
    def occupied(self) -> int:
        """Replicas that exist or are about to."""
        return max(self.wanted, self.present)

    @property
    def serving(self) -> int:
        """Replicas that serve and were not told to go: what was heard may be older than that."""
        going = 0 if self.drops_idle_first else max(0, self.present - self.wanted)
        return min(self.wanted, max(0, self.available - going))

    def spared(self, surplus: int, spare: int) -> tuple[int, int]:
        """How many of a surplus may go where so many may cease to serve, and how many of them do."""
        if not self.drops_idle_first:
            taken = surplus if self.serving <= spare else min(surplus, spare)
            return taken, min(taken, self.serving)
        idle = min(surplus, self.wanted - self.serving)
        active = min(surplus - idle, spare)
        return idle + active, active


def step(
    counts: Mapping[str, Count], goals: Mapping[str, int], order: Sequence[str], budget: Budget
) -> dict[str, int]:
    """The replicas that each revision is to be told, one step nearer to its goal (0 without one).

    `order` names every revision of both maps, the one to strengthen first and to weaken last.
    """
    kept = _weakened(counts, goals, order, budget)
    return _strengthened(kept, counts, goals, order, budget)


def _weakened(
    counts: Mapping[str, Count], goals: Mapping[str, int], order: Sequence[str], budget: Budget
) -> dict[str, int]:
    """Without what is too much: what does not serve costs nothing, the rest what can be spared."""
    spare = max(0, sum(count.serving for count in counts.values()) - budget.minimum)
    kept = {name: counts[name].wanted if name in counts else 0 for name in order}
    for name in reversed(order):
        surplus = kept[name] - goals.get(name, 0)
        if surplus <= 0:
            continue
        taken, active = counts[name].spared(surplus, spare)
        spare -= active
        kept[name] -= taken
    return kept


def _strengthened(
    kept: Mapping[str, int],
    counts: Mapping[str, Count],
    goals: Mapping[str, int],
    order: Sequence[str],
    budget: Budget,
) -> dict[str, int]:
    """With as much of what is missing as there is room for."""
    room = budget.maximum - sum(count.occupied for count in counts.values())
    if room <= 0 or not all(count.settled for count in counts.values()):
        return dict(kept)
    grown = dict(kept)
    for name in order:
        if name in counts and counts[name].present > kept[name]:
            continue  # it is still losing what it was told to lose
        added = min(max(0, goals.get(name, 0) - kept[name]), room)
        grown[name] += added
        room -= added
    return grown
