"""Measures the pods of autoscaled deployments, all of them at an interval, and remembers the last looks.

Only those deployments cost anything. What a pod does not tell for a while still counts as it was, so that
one answer that is late is no news; a pod that was never measured is left out for a while, as it may just
have become ready.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from pitcrew_operator.api.autoscaling import Autoscaling
from pitcrew_operator.ask.dcgm import PodName, average
from pitcrew_operator.ask.exposition import State, Totals, read_state, read_totals
from pitcrew_operator.ask.http import Http, NoAnswer
from pitcrew_operator.ask.known import Known, drop_old, first_token
from pitcrew_operator.ask.members import Member, members
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, POD, at
from pitcrew_operator.manifests.gpu import holds_gpus
from pitcrew_operator.plan.autoscaling.looks import Look
from pitcrew_operator.plan.voters import Voters, voters_of
from pitcrew_operator.store import Store
from pitcrew_operator.views import InvalidResource, Meta, deployment_of

_HELD_LOOKS: Final = 3
"""Looks that a reading outlives."""
_YOUNG_LOOKS: Final = 6
"""Looks at a ready replica that may pass before it has to tell something."""
_AT_A_TIME: Final = 64
_ANSWER_SECONDS: Final = 3.0
"""Pods that take longer must not make the looks at all others late."""

logger = logging.getLogger(__name__)


class Gpus(Protocol):
    """See GpuUsage."""

    @property
    def usage(self) -> Mapping[PodName, Sequence[float]]:
        """Percent of each GPU, by the pod that holds it."""

    async def refresh(self, pods: set[PodName]) -> None:
        """Read them anew."""


@dataclass(frozen=True)
class _Subject:
    """A deployment, and what is to be measured of it."""

    meta: Meta
    voters: Voters
    horizon: float
    """Seconds that its looks are remembered for."""
    replicas: tuple[Member, ...]


@dataclass
class _Memory:
    """What is known of one deployment."""

    uid: str
    replicas: dict[str, Known] = field(default_factory=dict)
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

    async def run(self, is_wanted: Callable[[], bool]) -> None:
        """Look again and again, until cancelled; whoever does not decide does not look either."""
        while True:
            began = self._clock()
            if is_wanted():
                try:
                    await self.look()
                except Exception:
                    # What is measured is not ours: whatever it does, it is looked at again.
                    logger.exception("cannot measure autoscaled deployments")
            else:
                self._memories.clear()
            await asyncio.sleep(max(0.0, began + self._interval - self._clock()))

    async def look(self) -> None:
        """One look at each autoscaled deployment."""
        subjects = list(self._subjects())
        names = {(subject.meta.namespace, subject.meta.name) for subject in subjects}
        self._memories = {key: memory for key, memory in self._memories.items() if key in names}
        by_gpus = (subject for subject in subjects if subject.voters.gpu is not None)
        holding = {pod for subject in by_gpus for each in subject.replicas for pod in each.pods}
        if holding:
            await self._gpus.refresh(holding)
        await asyncio.gather(*map(self._look_at, subjects))

    def _subjects(self) -> Iterator[_Subject]:
        for raw in self._store.all(DEPLOYMENT):
            if not at(raw, "spec", "autoscaling"):
                continue
            try:
                owner = deployment_of(raw)
            except InvalidResource:
                continue  # told by the pass over it
            asked, namespace, name = owner.spec.autoscaling, owner.meta.namespace, owner.meta.name
            assert asked is not None, "it is there"
            engine = self._store.get(ENGINE, namespace, owner.spec.engine_ref.name)
            capability = at(engine, "status", "engine", "computeCapability")
            has_gpus = holds_gpus(capability, owner.spec.runtime)
            pods = self._store.refer(POD, namespace, f"deployment={name}")
            yield _Subject(
                owner.meta, voters_of(asked, has_gpus=has_gpus), _horizon(asked), members(pods)
            )

    async def _look_at(self, subject: _Subject) -> None:
        key = (subject.meta.namespace, subject.meta.name)
        memory = self._memories.get(key)
        if memory is None or memory.uid != subject.meta.uid:
            memory = self._memories[key] = _Memory(subject.meta.uid)
        asked = subject.replicas if subject.voters.asks_pods else ()
        told = dict(zip(asked, await asyncio.gather(*map(self._ask, asked)), strict=True))
        now = self._clock()
        memory.replicas = {
            replica.uid: memory.replicas.get(replica.uid) or Known(now)
            for replica in subject.replicas
        }
        for replica in subject.replicas:
            memory.replicas[replica.uid].learn(now, self._percent(replica), told.get(replica))
        memory.looks.appendleft((now, self._seen(subject.voters, memory, now)))
        drop_old(memory.looks, now - subject.horizon)
        self._wake(*key)

    async def _ask(self, replica: Member) -> tuple[State, Totals] | None:
        try:
            async with self._slots, asyncio.timeout(_ANSWER_SECONDS):
                text = await self._http.text(f"{replica.address}/metrics")
            return read_state(text), read_totals(text)
        except (NoAnswer, TimeoutError, ValueError, KeyError) as error:
            logger.debug("no reading of %s: %s", replica.address, error)
            return None

    def _percent(self, replica: Member) -> float | None:
        """Where a pod of it is told of by nobody, neither is the replica."""
        usage = self._gpus.usage
        return average(usage, replica.pods) if all(pod in usage for pod in replica.pods) else None

    def _seen(self, voters: Voters, memory: _Memory, now: float) -> Look:
        held, grace = _HELD_LOOKS * self._interval, _YOUNG_LOOKS * self._interval
        ripe = [
            known
            for known in memory.replicas.values()
            if not known.is_untold(voters) or now - known.since >= grace
        ]
        return Look(
            age=0.0,
            replicas=tuple(known.replica(now - held) for known in ripe),
            first_token=first_token(voters.first_token, ripe, now),
            young=len(memory.replicas) - len(ripe),
        )


def _horizon(asked: Autoscaling) -> float:
    return max(
        asked.behavior.scale_up.stabilization_window_seconds,
        asked.behavior.scale_down.stabilization_window_seconds,
    )
