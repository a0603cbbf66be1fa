"""What is known of one replica of an autoscaled deployment, and from when: seconds of a clock that never jumps."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pitcrew_operator.api.autoscaling import FirstTokenTarget
from pitcrew_operator.ask.exposition import State, Totals, add_up
from pitcrew_operator.plan.autoscaling.looks import Replica
from pitcrew_operator.plan.voters import Voters

T = TypeVar("T")


@dataclass
class Known:
    """The newest of everything. None: it was never told."""

    since: float
    """When the replica was first seen ready."""
    gpu: tuple[float, float] | None = None
    """When, and percent over the GPUs that it holds."""
    state: tuple[float, State] | None = None
    totals: deque[tuple[float, Totals]] = field(default_factory=deque)
    """The newest first."""

    def learn(self, now: float, percent: float | None, told: tuple[State, Totals] | None) -> None:
        """What came of one look, as far as anything did."""
        if percent is not None:
            self.gpu = (now, percent)
        if told is not None:
            self.state = (now, told[0])
            self._count(now, told[1])

    def _count(self, now: float, newest: Totals) -> None:
        """A container that was restarted counts from the beginning."""
        if self.totals and newest.first_tokens < self.totals[0][1].first_tokens:
            self.totals.clear()
        self.totals.appendleft((now, newest))

    def is_untold(self, voters: Voters) -> bool:
        """Whether something that they ask for was never told."""
        lacks_gpu = voters.gpu is not None and self.gpu is None
        return lacks_gpu or (voters.asks_pods and self.state is None)

    def replica(self, oldest: float) -> Replica:
        """What is newer than that."""
        gpu = self.gpu[1] if self.gpu and self.gpu[0] > oldest else None
        state = self.state[1] if self.state and self.state[0] > oldest else State()
        kv = 100 * state.kv_usage if state.kv_usage is not None else None
        return Replica(gpu, state.waiting, state.running, kv)

    def span(self, now: float, window: float) -> Totals | None:
        """What was counted in the window, or in as much of it as was seen. Forgets what came before."""
        drop_old(self.totals, now - window)
        if not self.totals or now - self.totals[0][0] > window:
            return None
        return self.totals[0][1].since(self.totals[-1][1])


def first_token(
    asked: FirstTokenTarget | None, replicas: Sequence[Known], now: float
) -> float | None:
    """Seconds at the percentile that is asked for, over all replicas; None where one is silent."""
    if asked is None:
        return None
    spans = [known.span(now, asked.window_seconds) for known in replicas]
    told = [span for span in spans if span is not None]
    if len(told) < len(spans):
        return None
    return add_up(told).quantile(asked.percentile / 100) or 0.0


def drop_old(timed: deque[tuple[float, T]], oldest: float) -> None:
    """All but the newest of those that are no younger."""
    while len(timed) > 1 and timed[-2][0] <= oldest:
        timed.pop()
