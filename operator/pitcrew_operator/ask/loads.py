"""Measures the pods of autoscaled deployments, all of them at an interval, and remembers the last looks.

Only those deployments cost anything. What a pod does not tell for a while still counts as it was, so that
one answer that is late is no news; a pod that was never measured is left out for as long, as it may just
have become ready. The clock is one that never jumps.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from pitcrew_operator.ask.dcgm import PodName, average
from pitcrew_operator.ask.exposition import State, Totals, add_up, read_state, read_totals
from pitcrew_operator.ask.http import Http, NoAnswer
from pitcrew_operator.ask.members import Member, members
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, POD, Raw, at
from pitcrew_operator.manifests.gpu import asks_for_gpus
from pitcrew_operator.plan.autoscaling.looks import Look, Replica
from pitcrew_operator.store import Store
from pitcrew_operator.views import Deployment, InvalidResource, deployment_of

_HELD_LOOKS: Final = 3
"""Looks that a reading outlives."""
_YOUNG_LOOKS: Final = 6
"""Looks at a ready replica that may pass before it has to tell something."""
_AT_A_TIME: Final = 32

logger = logging.getLogger(__name__)


class Gpus(Protocol):
    """See GpuUsage."""

    @property
    def usage(self) -> Mapping[PodName, Sequence[float]]:
        """Percent of each GPU, by the pod that holds it."""

    async def refresh(self, pods: set[PodName]) -> None:
        """Read them anew."""


@dataclass
class _Known:
    """What is known of one replica, with the times that it is from."""

    since: float
    """When it was first seen ready."""
    gpu: tuple[float, float] | None = None
    state: tuple[float, State] | None = None
    totals: deque[tuple[float, Totals]] = field(default_factory=deque)


@dataclass
class _Memory:
    """What is known of one deployment."""

    uid: str
    replicas: dict[str, _Known] = field(default_factory=dict)
    looks: deque[tuple[float, Look]] = field(default_factory=deque)
    """The newest first."""


class Loads:
    """The looks at every autoscaled deployment. `wake` is told of each that was looked at."""

    def __init__(
        self,
        store: Store,
        gpus: Gpus,
        http: Http,
        interval: float,
        wake: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._gpus, self._http = store, gpus, http
        self._interval, self._wake, self._clock = interval, wake, clock
        self._memories: dict[tuple[str, str], _Memory] = {}
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    def looks(self, namespace: str, name: str) -> tuple[Look, ...]:
        """Those at one deployment, the newest first."""
        memory, now = self._memories.get((namespace, name)), self._clock()
        return tuple(replace(look, age=now - at) for at, look in memory.looks) if memory else ()

    def forget(self) -> None:
        """Whoever does not decide does not look either."""
        self._memories.clear()

    async def run(self, is_wanted: Callable[[], bool]) -> None:
        """Look again and again, until cancelled, for as long as somebody wants to know."""
        while True:
            began = self._clock()
            if is_wanted():
                try:
                    await self.look()
                except Exception:
                    # What pods send is not ours: whatever it does, they are looked at again.
                    logger.exception("cannot measure autoscaled deployments")
            else:
                self.forget()
            await asyncio.sleep(max(0.0, began + self._interval - self._clock()))

    async def look(self) -> None:
        """One look at each autoscaled deployment."""
        owners = list(self._owners())
        names = {(owner.meta.namespace, owner.meta.name) for owner in owners}
        self._memories = {key: memory for key, memory in self._memories.items() if key in names}
        replicas = [(owner, self._replicas(owner)) for owner in owners]
        holding = {
            pod for owner, each in replicas if self._has_gpus(owner) for m in each for pod in m.pods
        }
        if holding:
            await self._gpus.refresh(holding)
        await asyncio.gather(*(self._look_at(owner, each) for owner, each in replicas))

    def _owners(self) -> Iterator[Deployment]:
        for raw in self._store.all(DEPLOYMENT):
            if at(raw, "spec", "autoscaling"):
                try:
                    yield deployment_of(raw)
                except InvalidResource:
                    continue  # told by the pass over it

    def _replicas(self, owner: Deployment) -> list[Member]:
        namespace, name = owner.meta.namespace, owner.meta.name
        return members(self._store.refer(POD, namespace, f"deployment={name}"))

    def _has_gpus(self, owner: Deployment) -> bool:
        engine: Raw = (
            self._store.get(ENGINE, owner.meta.namespace, owner.spec.engine_ref.name) or {}
        )
        plans = at(engine, "status", "engine", "computeCapability") is not None
        return plans or asks_for_gpus(owner.spec.runtime)

    async def _look_at(self, owner: Deployment, replicas: Sequence[Member]) -> None:
        key = (owner.meta.namespace, owner.meta.name)
        memory = self._memories.get(key)
        if memory is None or memory.uid != owner.meta.uid:
            memory = self._memories[key] = _Memory(owner.meta.uid)
        texts = await asyncio.gather(*(self._text(replica) for replica in replicas))
        now = self._clock()
        present = {replica.uid for replica in replicas}
        memory.replicas = {uid: k for uid, k in memory.replicas.items() if uid in present}
        for replica, text in zip(replicas, texts, strict=True):
            known = memory.replicas.setdefault(replica.uid, _Known(now))
            self._learn(known, replica, text, now)
        memory.looks.appendleft((now, self._seen(owner, memory, now)))
        _drop_old(memory.looks, now - _horizon(owner))
        self._wake(*key)

    async def _text(self, replica: Member) -> str | None:
        try:
            async with self._slots:
                return await self._http.text(f"{replica.address}/metrics")
        except NoAnswer as error:
            logger.debug("no reading: %s", error)
            return None

    def _learn(self, known: _Known, replica: Member, text: str | None, now: float) -> None:
        usage = self._gpus.usage
        if all(pod in usage for pod in replica.pods):
            percent = average(usage, replica.pods)
            known.gpu = (now, percent) if percent is not None else known.gpu
        if text is not None:
            known.state = (now, read_state(text))
            _count(known.totals, now, read_totals(text))

    def _seen(self, owner: Deployment, memory: _Memory, now: float) -> Look:
        held, grace = _HELD_LOOKS * self._interval, _YOUNG_LOOKS * self._interval
        wants_gpus = self._has_gpus(owner)

        def is_young(known: _Known) -> bool:
            untold = known.state is None or (wants_gpus and known.gpu is None)
            return untold and now - known.since < grace

        ripe = [known for known in memory.replicas.values() if not is_young(known)]
        return Look(
            age=0.0,
            replicas=tuple(_replica(known, now - held) for known in ripe),
            first_token=_first_token(owner, ripe, now),
            young=len(memory.replicas) - len(ripe),
        )


def _replica(known: _Known, oldest: float) -> Replica:
    gpu = known.gpu[1] if known.gpu and known.gpu[0] > oldest else None
    state = known.state[1] if known.state and known.state[0] > oldest else State()
    kv = 100 * state.kv_usage if state.kv_usage is not None else None
    return Replica(gpu, state.waiting, state.running, kv)


def _count(totals: deque[tuple[float, Totals]], now: float, newest: Totals) -> None:
    """A container that was restarted counts from the beginning."""
    if totals and newest.first_tokens < totals[0][1].first_tokens:
        totals.clear()
    totals.appendleft((now, newest))


def _first_token(owner: Deployment, replicas: Sequence[_Known], now: float) -> float | None:
    """Seconds at the percentile that is asked for, over all replicas; None where one is silent."""
    autoscaling = owner.spec.autoscaling
    asked = autoscaling.time_to_first_token if autoscaling else None
    spans = [_span(known.totals, now, asked.window_seconds if asked else 0) for known in replicas]
    told = [span for span in spans if span is not None]
    if asked is None or len(told) < len(spans):
        return None
    return add_up(told).quantile(asked.percentile / 100) or 0.0


def _span(totals: deque[tuple[float, Totals]], now: float, window: float) -> Totals | None:
    """What was counted in the window, or in as much of it as was seen. Forgets what came before."""
    _drop_old(totals, now - window)
    if not totals or now - totals[0][0] > window:
        return None
    return totals[0][1].since(totals[-1][1])


def _horizon(owner: Deployment) -> float:
    autoscaling = owner.spec.autoscaling
    assert autoscaling is not None, "only those are looked at"
    behavior = autoscaling.behavior
    return max(
        behavior.scale_up.stabilization_window_seconds,
        behavior.scale_down.stabilization_window_seconds,
    )


def _drop_old(
    timed: deque[tuple[float, Look]] | deque[tuple[float, Totals]], oldest: float
) -> None:
    """All but the newest of those that are older."""
    while len(timed) > 1 and timed[-2][0] <= oldest:
        timed.pop()
