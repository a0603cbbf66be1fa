"""The one place that carries actions out."""

import hashlib
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pitcrew_operator.api.common import API_VERSION
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.errors import Conflict, Gone
from pitcrew_operator.kinds import EVENT, Kind, Raw, kind_of
from pitcrew_operator.plan.actions import (
    Action,
    Apply,
    Ask,
    Delete,
    Emit,
    Patch,
    Requeue,
    WriteStatus,
)
from pitcrew_operator.store import Store
from pitcrew_operator.views import Meta

_CONTROLLER: Final = "pitcrew.dev/operator"
_INSTANCE: Final = f"{_CONTROLLER}-{socket.gethostname()}"[:128]

logger = logging.getLogger(__name__)


async def perform(
    actions: Sequence[Action],
    cluster: Cluster,
    store: Store,
    ask: Callable[[Ask], None],
    record: Callable[[Raw], Awaitable[None]],
) -> float | None:
    """Carry the actions out in order; the least requeue time is returned, if any was asked.

    Stops at the first refused write. Own writes enter the view at once, so that the next plan
    never misses them.
    """
    for action in actions:
        match action:
            case Apply(manifest):
                store.put(kind_of(manifest), await cluster.apply(manifest))
            case Patch(kind, meta, fields):
                await _patch(kind, meta, fields, cluster, store)
            case Delete(kind, namespace, name, uid):
                await cluster.delete(kind, namespace, name, uid)
            case WriteStatus():
                await _write_status(action, cluster, store)
            case Emit():
                await _emit(action, record)
            case Ask():
                ask(action)
            case Requeue():
                pass
    return min((a.seconds for a in actions if isinstance(a, Requeue)), default=None)


async def _patch(kind: Kind, meta: Meta, fields: Raw, cluster: Cluster, store: Store) -> None:
    try:
        store.put(kind, await cluster.patch(kind, meta, fields))
    except Gone:
        logger.debug("%s %s is gone", kind.kind, meta.name)


async def _write_status(action: WriteStatus, cluster: Cluster, store: Store) -> None:
    """What was planned for an older state than the newest is refused: a status is the memory of what was
    proven. The newest state is read then, for a watch may be silent for a while.
    """
    kind, meta = action.kind, action.meta
    document = {
        "apiVersion": API_VERSION,
        "kind": kind.kind,
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            # A namesake that was created since must not get this status.
            "uid": meta.uid,
            "resourceVersion": meta.version,
        },
        "status": action.status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    try:
        store.put(kind, await cluster.apply_status(document))
    except Gone:
        logger.debug("%s %s is gone", kind.kind, meta.name)
    except Conflict:
        newest = await cluster.get(kind, meta.namespace, meta.name)
        if newest is not None:
            store.put(kind, newest)
        raise


async def _emit(action: Emit, record: Callable[[Raw], Awaitable[None]]) -> None:
    text = "%s %s/%s: %s: %s"
    meta = action.meta
    logger.info(text, action.kind.kind, meta.namespace, meta.name, action.reason, action.message)
    await record(event_manifest(action))


def event_manifest(action: Emit) -> Raw:
    """The Event; its name stands for the transition, so that a repetition is no second event."""
    meta = action.meta
    identity = f"{meta.uid}\n{action.reason}\n{action.message}\n{action.at}"
    suffix = hashlib.sha256(identity.encode()).hexdigest()[:12]
    regarding: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": action.kind.kind,
        "namespace": meta.namespace,
        "name": meta.name,
        "uid": meta.uid,
    }
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": f"{meta.name}.{suffix}", "namespace": meta.namespace},
        "eventTime": action.at.removesuffix("Z") + ".000000Z",
        "type": action.type,
        "reason": action.reason,
        "note": action.message,
        "action": "Reconcile",
        "regarding": regarding,
        "reportingController": _CONTROLLER,
        "reportingInstance": _INSTANCE,
    }
