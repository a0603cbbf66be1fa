"""kopf watches our own resources: it lists, streams, reconnects and renews credentials, nothing else.

Only `on.event` handlers are registered. They need no finalizer, no annotation and no record of
what was handled last, so kopf never writes to any object; timers and daemons would put its
finalizer on users' objects, which is why delays live in our own queue.

kopf has a thread with an event loop of its own: at its end it ends every task that it does not
know, and some errors end it (a stream that ends in another error than 410, a long absence of the API
server). It is begun anew then.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any, Final, Protocol

import kopf

from pitcrew_operator.kinds import Kind, Raw
from pitcrew_operator.slim import slim
from pitcrew_operator.stateless import NothingHandled, NothingUnderWay

# The server ends a watch after this; the client gives up a little later if it did not.
_SERVER_TIMEOUT: Final = 290
_CLIENT_TIMEOUT: Final = 310
_CONNECT_TIMEOUT: Final = 10
_REQUEST_TIMEOUT: Final = 60
_BACKOFFS: Final = (0.5, 1, 1, 2, 3, 5, 8, 13)
# A worker of kopf keeps its place and its last event for so long after it; and while there are fewer
# places than objects that change, each waits for another's time to run out.
_IDLE_SECONDS: Final = 0.05
_PAGE: Final = 100
_TOLD_AT_ONCE: Final = 100


class View(Protocol):
    """Who is told of what the watches see."""

    def put(self, kind: Kind, raw: Raw) -> None:
        """An object as it is now."""

    def remove(self, kind: Kind, raw: Raw) -> None:
        """An object that was deleted."""

    def relisted(self, kind: Kind) -> None:
        """A watch has begun, or begun anew: what was deleted before it is not told."""


async def watch(
    view: View,
    kinds: Collection[Kind],
    namespaces: Collection[str],
    silence: float,
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    """Tell the view until stopped. No namespaces: the whole cluster. A stream that says nothing for
    `silence` seconds, no bookmark either, is taken for dead. Raises whatever kopf gives up for, such
    as an API server that was away for too long; may be called again then.
    """
    loop, stopped, began = asyncio.get_running_loop(), Future[None](), Future[None]()
    began.add_done_callback(lambda _: loop.call_soon_threadsafe(ready.set))
    work = _kopf(_Teller(view), _settings(silence), kinds, namespaces, stopped, began)
    watching = asyncio.create_task(asyncio.to_thread(asyncio.run, work))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([watching, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        stopped.set_result(None)
        await watching


class _Teller:
    """Tells the view on the loop where it lives.

    That loop is woken once for all that came since: to wake it for each event costs more than what
    it does then.
    """

    def __init__(self, view: View) -> None:
        self._view, self._loop = view, asyncio.get_running_loop()
        self._news: deque[tuple[kopf.RawEventType, Kind, Raw]] = deque()
        self._is_woken = False

    def tell(self, kind: Kind, event: kopf.RawEvent) -> None:
        """Take one event, in kopf's thread. Those of a listing have no type."""
        self._news.append((event["type"], kind, slim(kind, event["object"])))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        self._is_woken = False  # before anything is taken: what comes now wakes us again
        for _ in range(min(len(self._news), _TOLD_AT_ONCE)):
            self._one(*self._news.popleft())
        if self._news:
            self._loop.call_soon(self._pass_on)

    def _one(self, change: kopf.RawEventType, kind: Kind, raw: Raw) -> None:
        if change == "DELETED":
            self._view.remove(kind, raw)
        else:
            self._view.put(kind, raw)
        if change is None:
            self._view.relisted(kind)


async def _kopf(
    teller: _Teller,
    settings: kopf.OperatorSettings,
    kinds: Collection[Kind],
    namespaces: Collection[str],
    stop: "Future[None]",
    ready: "Future[None]",
) -> None:
    loop, flag = asyncio.get_running_loop(), asyncio.Event()

    def raise_flag(_: "Future[None]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: kopf has ended already
            loop.call_soon_threadsafe(flag.set)

    # kopf would wait for a flag of another thread in a thread, and that one would outlive its end.
    stop.add_done_callback(raise_flag)
    await kopf.operator(
        registry=_registry(teller, kinds),
        settings=settings,
        standalone=True,
        # kopf would look up the user's name, and a uid that the cluster chose has none. The
        # identity's type, a plain string, is not public.
        identity="pitcrew",  # type: ignore[arg-type]
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=flag,
        ready_flag=ready,
    )


def _registry(teller: _Teller, kinds: Collection[Kind]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry, id="login")(_login)
    for kind in kinds:
        _register(kind, teller, registry)
    return registry


def _register(kind: Kind, teller: _Teller, registry: kopf.OperatorRegistry) -> None:
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401 (kopf's protocol)
        teller.tell(kind, event)

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


def _settings(silence: float) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = NothingHandled()
    settings.persistence.progress_storage = NothingUnderWay()
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = None  # it would kill the process, not the thread
    settings.scanning.disabled = True
    settings.watching.server_timeout = _SERVER_TIMEOUT
    settings.watching.client_timeout = _CLIENT_TIMEOUT
    settings.watching.inactivity_timeout = silence
    settings.watching.connect_timeout = _CONNECT_TIMEOUT
    settings.watching.chunk_size = _PAGE
    settings.networking.request_timeout = _REQUEST_TIMEOUT
    settings.networking.error_backoffs = _BACKOFFS
    settings.queueing.idle_timeout = _IDLE_SECONDS
    return settings
