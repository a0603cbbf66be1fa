"""Where the ranks of an engine run: in one pod, or dealt out over several in their order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from pitcrew_builder.manifest import GraphInterface
from pitcrew_runtime.ranks.wiring import exchange_groups, next_stage

Pair = tuple[int, int]
"""Two ranks, the lower first."""


@dataclass(frozen=True, slots=True)
class Pods:
    """A group of pods, as one of them sees it. Pod 0 leads and serves."""

    index: int
    count: int
    ranks_each: int
    leader: str
    """Host name or address of pod 0."""
    port: int
    """TCP, on every pod."""
    host: str
    """The address to listen on and to call from; empty for all of them."""
    token: bytes
    """What members prove that they know; empty asks for no proof."""
    join_seconds: float
    """How long pods wait for each other."""
    tls: Path | None = None
    """Certificates with which their ranks speak under TLS; None leaves it in the open."""

    @property
    def ranks(self) -> range:
        """Those of this pod."""
        return self.ranks_of(self.index)

    def ranks_of(self, pod: int) -> range:
        """Those of a pod."""
        return range(pod * self.ranks_each, (pod + 1) * self.ranks_each)

    def pod_of(self, rank: int) -> int:
        """Where a rank runs."""
        return rank // self.ranks_each


def crossing(ranks: Sequence[GraphInterface], pods: Pods) -> frozenset[Pair]:
    """The pairs that exchange values and run in different pods."""
    return frozenset(
        (first, second)
        for first, second in _talking(ranks)
        if pods.pod_of(first) != pods.pod_of(second)
    )


def _talking(ranks: Sequence[GraphInterface]) -> Iterator[Pair]:
    for group in exchange_groups(ranks):
        yield from combinations(sorted(group), 2)
    for rank in range(len(ranks)):
        following = next_stage(ranks, rank)
        if following is not None:
            yield rank, following
