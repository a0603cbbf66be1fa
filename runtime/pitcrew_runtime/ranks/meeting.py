"""How the pods of a group find each other, before any rank is started.

Every pod listens. Workers call the leader; when all have, the leader tells each where the others
are. Then every connection that ranks will need is made by the pod with the higher number: one from
the leader to each rank elsewhere, and one for each pair of ranks that exchanges values. Ranks inherit them.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pitcrew_runtime.errors import InvalidOption, RankFailed
from pitcrew_runtime.ranks.handshake import (
    SECONDS,
    Badge,
    Purpose,
    Refused,
    Words,
    answer,
    call,
    receive_words,
    send_words,
)
from pitcrew_runtime.ranks.pods import Pair, Pods

logger = logging.getLogger(__name__)

_Key = tuple[str, tuple[int, ...]]
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class Meeting:
    """Connections of one pod, of which the holder closes what it does not pass on."""

    pods: Mapping[int, socket.socket]
    """The leader's to each other pod, or a worker's to the leader."""
    ranks: Mapping[int, socket.socket]
    """The leader's to each rank elsewhere, or those of a worker's ranks to the leader."""
    pairs: Mapping[Pair, socket.socket]
    """Between a rank here and one elsewhere."""
    adapter_slots: int

    def peers(self, rank: int) -> dict[int, socket.socket]:
        """The connections of a rank here, by the rank at their other end."""
        return {
            second if rank == first else first: end
            for (first, second), end in self.pairs.items()
            if rank in (first, second)
        }


def lead(pods: Pods, badge: Badge, pairs: Iterable[Pair], adapter_slots: int) -> Meeting:
    """The leader's part. Raises `RankFailed` where pods are missing."""
    deadline = time.monotonic() + pods.join_seconds
    with _Reception(pods, badge) as desk:
        others = range(1, pods.count)
        logger.info("Waiting for %d more pods on port %d", len(others), desk.port)
        guests = desk.wait_for([("pod", (pod,)) for pod in others], deadline)
        addresses = {guest.purpose.numbers[0]: guest.address for guest in guests.values()}
        for guest in guests.values():
            send_words(guest.end, {"addresses": addresses, "adapterSlots": adapter_slots})
        elsewhere = range(pods.ranks_each, pods.count * pods.ranks_each)
        ours = [pair for pair in pairs if pods.pod_of(pair[0]) == 0]
        wanted = [("rank", (rank,)) for rank in elsewhere] + [("pair", pair) for pair in ours]
        calls = desk.wait_for(wanted, deadline)
    return Meeting(
        pods={pod: guests["pod", (pod,)].end for pod in others},
        ranks={rank: calls["rank", (rank,)].end for rank in elsewhere},
        pairs={pair: calls["pair", pair].end for pair in ours},
        adapter_slots=adapter_slots,
    )


def follow(pods: Pods, badge: Badge, pairs: Iterable[Pair]) -> Meeting:
    """A worker's part. Raises `RankFailed` where the others are missing or refuse."""
    deadline = time.monotonic() + pods.join_seconds
    leader = (pods.leader, pods.port)
    with _Reception(pods, badge) as desk:
        joined = Purpose(kind="pod", numbers=(pods.index,), port=desk.port)
        end, told = _join(pods, badge, joined, deadline)
        addresses = {0: leader} | {int(pod): tuple(at) for pod, at in told["addresses"].items()}
        ranks = {
            rank: _dial(leader, pods, badge, Purpose(kind="rank", numbers=(rank,)), deadline)
            for rank in pods.ranks
        }
        called = {}
        for pair in pairs:
            if pods.pod_of(pair[1]) == pods.index:
                purpose = Purpose(kind="pair", numbers=pair)
                at = addresses[pods.pod_of(pair[0])]
                called[pair] = _dial(at, pods, badge, purpose, deadline)
        ours = [pair for pair in pairs if pods.pod_of(pair[0]) == pods.index]
        calls = desk.wait_for([("pair", pair) for pair in ours], deadline)
    called |= {pair: calls["pair", pair].end for pair in ours}
    return Meeting({0: end}, ranks, called, int(told["adapterSlots"]))


def _join(
    pods: Pods, badge: Badge, purpose: Purpose, deadline: float
) -> tuple[socket.socket, Words]:
    """Wait for the leader, and with it for all others; a leader that starts anew is called anew."""
    while True:
        end = _dial((pods.leader, pods.port), pods, badge, purpose, deadline)
        end.settimeout(max(SECONDS, deadline - time.monotonic() + SECONDS))
        try:
            told = receive_words(end)
        except (OSError, EOFError, ValueError):
            end.close()
            if time.monotonic() > deadline:
                raise RankFailed("the leader found no complete group; see its log") from None
            continue
        end.settimeout(None)
        return end, told


def _dial(
    address: tuple[str, int], pods: Pods, badge: Badge, purpose: Purpose, deadline: float
) -> socket.socket:
    """Call until somebody answers. Raises `RankFailed`."""
    source = (pods.host, 0) if pods.host else None
    while True:
        with contextlib.ExitStack() as undo:
            try:
                end = socket.create_connection(address, SECONDS, source_address=source)
                undo.callback(end.close)
                call(end, badge, purpose)
                undo.pop_all()
                return end
            except (OSError, EOFError, ValueError) as error:
                fault = str(error) or type(error).__name__
        if time.monotonic() > deadline:
            raise RankFailed(
                f"nobody answers at {address[0]} port {address[1]} within "
                f"{pods.join_seconds:g} s: {fault}; see the other pods of this group"
            )
        time.sleep(_PAUSE)


@dataclass(frozen=True, slots=True)
class _Guest:
    end: socket.socket
    purpose: Purpose
    host: str

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.purpose.port


class _Reception:
    """Answers calls, each on a thread of its own, and keeps those that belong here."""

    def __init__(self, pods: Pods, badge: Badge) -> None:
        self._pods = pods
        self._badge = badge
        self._guests: dict[_Key, _Guest] = {}
        self._changed = threading.Condition()
        self._listener = _listen(pods)

    @property
    def port(self) -> int:
        """Where calls are answered."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="reception", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing alone would leave the thread in its wait.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if error is not None:
            for guest in self._guests.values():
                guest.end.close()

    def wait_for(self, keys: Iterable[_Key], deadline: float) -> dict[_Key, _Guest]:
        """All of them. Raises `RankFailed` with those that are missing."""
        wanted = list(keys)
        with self._changed:
            self._changed.wait_for(
                lambda: all(key in self._guests for key in wanted), deadline - time.monotonic()
            )
            missing = [key for key in wanted if key not in self._guests]
            if missing:
                names = ", ".join(f"{kind} {'-'.join(map(str, who))}" for kind, who in missing)
                raise RankFailed(
                    f"not within {self._pods.join_seconds:g} s: {names}; see the logs of the other "
                    "pods of this group, and raise --rank-join-seconds if they only need longer"
                )
            return {key: self._guests[key] for key in wanted}

    def _accept(self) -> None:
        while True:
            try:
                end, address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(end, address[0]), daemon=True).start()

    def _answer(self, end: socket.socket, host: str) -> None:
        try:
            purpose = answer(end, self._badge)
        except (OSError, EOFError, ValueError, KeyError, Refused) as error:
            logger.warning("A call from %s was not taken: %s", host, error or type(error).__name__)
            end.close()
            return
        with self._changed:
            # A pod that has started anew calls again; what it had before is dead.
            if (before := self._guests.get(purpose.key)) is not None:
                before.end.close()
            self._guests[purpose.key] = _Guest(end, purpose, host)
            self._changed.notify_all()


def _listen(pods: Pods) -> socket.socket:
    # A worker alone may choose any port, since it tells the leader.
    try:
        if not pods.host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", pods.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256
            )
        family = socket.AF_INET6 if ":" in pods.host else socket.AF_INET
        return socket.create_server((pods.host, pods.port), family=family, backlog=256)
    except OSError as error:
        raise InvalidOption(f"--rank-port {pods.port}: {error.strerror or error}") from error
