"""Observe, plan, perform: one pass over one resource. May be repeated at any moment."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple, TypeVar

from pitcrew_operator.ask.asker import Asker
from pitcrew_operator.ask.dcgm import PodName
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.config import Config
from pitcrew_operator.configmaps import ConfigMaps
from pitcrew_operator.errors import Rejected, Unavailable
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, Kind, Raw
from pitcrew_operator.logtails import LogTails
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.observe import Readers, see_deployment, see_engine
from pitcrew_operator.patience import Patience
from pitcrew_operator.perform import perform
from pitcrew_operator.plan import problem
from pitcrew_operator.plan.actions import Action, Ask, Delete, Patch, WriteStatus
from pitcrew_operator.plan.autoscaling.looks import Look
from pitcrew_operator.plan.deployment import plan_deployment
from pitcrew_operator.plan.engine import plan_engine
from pitcrew_operator.plan.problem import OwnStatus
from pitcrew_operator.recorder import record_now
from pitcrew_operator.store import Store
from pitcrew_operator.telemetry import (
    count_builds,
    decisions_of,
    forget_scaling,
    tell_scaling,
    watched_pass,
)
from pitcrew_operator.views import InvalidResource, Meta, deployment_of, engine_of
from pitcrew_operator.workqueue import RetryLater

T = TypeVar("T")

_AT_ONCE: Final = 0.05
_BY_RECORD: Final = (Delete, Patch, WriteStatus)


class Key(NamedTuple):
    """One of our own resources."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}"


def utc_now() -> datetime:
    """The wall clock; the only one in the operator."""
    return datetime.now(UTC)


class Reconciler:
    """Brings resources closer to their specs, one pass at a time."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        config: Config,
        metrics: Metrics,
        asker: Asker,
        now: Callable[[], datetime] = utc_now,
        gpus: Callable[[], Mapping[PodName, Sequence[float]]] = dict,
        looks: Callable[[str, str], Sequence[Look]] = lambda namespace, name: (),
        patience: Patience[Key] | None = None,
        record: Callable[[Raw], Awaitable[None]] | None = None,
        watched: Callable[[], timedelta] = lambda: timedelta.max,
    ) -> None:
        """`watched` tells for how long this operator has been the one that writes."""
        self._patience = patience or Patience(math.inf, lambda key: None)
        self._cluster, self._store, self._config = cluster, store, config
        self._asker, self._gpus, self._looks = asker, gpus, looks
        self._record = record or partial(record_now, cluster)
        self._metrics, self._now, self._watched = metrics, now, watched
        self._readers = Readers(
            LogTails(cluster, config.log_poll_seconds, now), ConfigMaps(cluster, now)
        )

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Returns the seconds after which to look again, if at all.

        Raises RetryLater for what passes by itself or has just been told to the user.
        """
        raw = self._store.get(*key)
        if raw is None:
            self._asker.forget(key)
            forget_scaling(self._metrics, key.namespace, key.name)
            self._patience.forget(key)
            return None
        try:
            with (
                self._patience.passing(key),
                watched_pass(self._metrics, key.kind.kind, str(key)) as decisions,
            ):
                return await self._pass(key, raw, decisions)
        except Unavailable as error:
            raise RetryLater(str(error), error.retry_after) from error
        except Rejected as error:
            raise RetryLater(str(error)) from error

    async def _pass(self, key: Key, raw: Raw, decisions: list[str]) -> float | None:
        try:
            if key.kind is ENGINE:
                return await self._pass_engine(raw, decisions)
            return await self._pass_deployment(raw, decisions)
        except InvalidResource as error:
            status, situation = error.status, problem.invalid(error.problem)
            assert isinstance(status, OwnStatus)
            told = problem.tell(error.kind, error.meta, status, situation, self._now())
            return await self._perform(told, decisions)

    async def _pass_engine(self, raw: Raw, decisions: list[str]) -> float | None:
        engine, now = engine_of(raw), self._now()
        seen = await see_engine(
            engine, self._store, self._cluster, self._readers, self._config, now
        )
        actions = plan_engine(engine, seen, now, self._config)
        again = await self._carry_out(actions, ENGINE, engine.meta, engine.status, decisions)
        count_builds(self._metrics, engine.status.versions, actions)
        return again

    async def _pass_deployment(self, raw: Raw, decisions: list[str]) -> float | None:
        owner = deployment_of(raw)
        namespace, name = owner.meta.namespace, owner.meta.name
        seen = await see_deployment(
            owner,
            self._store,
            self._cluster,
            self._config,
            self._asker.answers(Key(DEPLOYMENT, namespace, name)),
            self._gpus(),
            self._watched(),
            self._looks(namespace, name) if owner.spec.autoscaling else (),
        )
        actions = plan_deployment(owner, seen, self._now())
        # Where the number of replicas stands in the status alone, an older one must not be acted on.
        by_record = owner.spec.autoscaling and any(isinstance(a, _BY_RECORD) for a in actions)
        if by_record and not await self._is_newest(DEPLOYMENT, owner.meta):
            return _AT_ONCE
        again = await self._carry_out(actions, DEPLOYMENT, owner.meta, owner.status, decisions)
        tell_scaling(self._metrics, owner, actions)
        return again

    async def _carry_out(
        self,
        actions: list[Action],
        kind: Kind,
        meta: Meta,
        before: OwnStatus,
        decisions: list[str],
    ) -> float | None:
        """Perform; where the API server refuses a write, the user reads why in the conditions."""
        deletes = any(isinstance(action, Delete) for action in actions)
        if deletes and not await self._is_newest(kind, meta):
            return _AT_ONCE
        try:
            return await self._perform(self._due(kind, meta, actions), decisions)
        except Rejected as error:
            situation = problem.refused(
                error.status, error.message, is_permission=error.is_permission
            )
            told = problem.tell_refusal(kind, meta, before, actions, situation, self._now())
            await self._perform(told, decisions)
            raise

    async def _is_newest(self, kind: Kind, meta: Meta) -> bool:
        """Whether nothing newer is known of the resource than what was planned for.

        One watch may be behind another: what a stale status does not tell of must not be deleted.
        """
        newest = await self._cluster.get(kind, meta.namespace, meta.name)
        if newest is None:
            return False
        self._store.put(kind, newest)
        return bool(newest["metadata"].get("resourceVersion", "") == meta.version)

    def _due(self, kind: Kind, meta: Meta, actions: list[Action]) -> list[Action]:
        """What to do in this pass; the rest is planned again when there is time."""
        key, urgent = Key(kind, meta.namespace, meta.name), [a for a in actions if not a.can_wait]
        if len(urgent) < len(actions) and self._patience.may_wait(key):
            return urgent
        return actions

    async def _perform(self, actions: list[Action], decisions: list[str]) -> float | None:
        decisions += decisions_of(actions)
        return await perform(actions, self._cluster, self._store, self._ask, self._record)

    def _ask(self, action: Ask) -> None:
        meta = action.meta
        self._asker.ask(Key(action.kind, meta.namespace, meta.name), action.question)
