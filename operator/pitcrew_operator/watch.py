"""kopf does the watching: it lists, streams, reconnects and renews credentials, nothing else.

Only `on.event` handlers are registered. They need no finalizer, no annotation and no record of
what was handled last, so kopf never writes to any object; timers and daemons would put its
finalizer on users' objects, which is why delays live in our own queue.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Final

import kopf

from pitcrew_operator.kinds import Kind
from pitcrew_operator.store import Store

# The server ends a watch after this; the client gives up a little later if it did not.
_SERVER_TIMEOUT: Final = 290
_CLIENT_TIMEOUT: Final = 310
_PARALLEL_EVENTS: Final = 64


async def watch(
    store: Store,
    kinds: Collection[Kind],
    namespaces: Collection[str],
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    """Feed the store until stopped or signalled. No namespaces: the whole cluster."""
    await kopf.operator(
        registry=_registry(store, kinds, stop),
        settings=_settings(kinds),
        standalone=True,
        # kopf would look up the user's name, and a uid that the cluster chose has none. The
        # identity's type, a plain string, is not public.
        identity="pitcrew",  # type: ignore[arg-type]
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
        ready_flag=ready,
    )


def _registry(store: Store, kinds: Collection[Kind], stop: asyncio.Event) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry, id="login")(_login)

    async def release(**_: Any) -> None:  # noqa: ANN401 (kopf's protocol)
        """After a signal, kopf waits 5 s for its own waiter on this flag unless it is set."""
        stop.set()

    kopf.on.cleanup(registry=registry, id="release")(release)
    for kind in kinds:
        _register(kind, store, registry)
    return registry


def _register(kind: Kind, store: Store, registry: kopf.OperatorRegistry) -> None:
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401 (kopf's protocol)
        raw = event["object"]
        if event["type"] == "DELETED":
            store.remove(kind, raw)
        else:
            store.put(kind, raw)

    kopf.on.event(
        group=kind.group,
        version=kind.version,
        plural=kind.plural,
        registry=registry,
        id=f"watch-{kind.plural}",
    )(on_event)


def _login(**context: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 (kopf's protocol)
    """The kubeconfig where one is named, else the pod's service account."""
    return kopf.login_with_kubeconfig(**context) or kopf.login_with_service_account(**context)


def _settings(kinds: Collection[Kind]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = _SERVER_TIMEOUT
    settings.watching.client_timeout = _CLIENT_TIMEOUT
    settings.watching.chunk_size = 500
    settings.queueing.worker_limit = _PARALLEL_EVENTS
    settings.queueing.idle_timeout = 1.0
    for kind in kinds:
        if kind.selector:
            key = kind.group, kind.version, kind.plural
            settings.watching.label_selectors[key] = kind.selector
    return settings
