"""The leader's side of an engine that is split: starts the ranks of its pod and speaks to all.

Ranks stand and fall together, since each waits for the others. The first that ends, or says that
it cannot go on, ends the group: the rest are killed at once, in other pods by losing their connection,
and the reason is kept. Should the leader end, however it does, its ranks see it and end.
"""

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.adapters.weights import LoraWeights
from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.core.executor import ExecutorBroken
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.errors import RankFailed
from pitcrew_runtime.execution.packing import Packed, with_block_tables
from pitcrew_runtime.execution.scoring import TOGETHER
from pitcrew_runtime.ranks import wire
from pitcrew_runtime.ranks.handshake import receive_words
from pitcrew_runtime.ranks.launch import GroupShape, ending, start
from pitcrew_runtime.ranks.meeting import Meeting
from pitcrew_runtime.ranks.messages import (
    FREE,
    LOGITS,
    TOKENS,
    Kind,
    adapter_message,
    load_message,
    pool_message,
    step_message,
)
from pitcrew_runtime.ranks.sealed import Connection, seal

_WORD_SECONDS = 2.0
"""How long a pod that is lost may take to say why."""


class RankGroup:
    """A `Network` whose parts are processes."""

    def __init__(
        self,
        shape: GroupShape,
        limits: Limits,
        meeting: Meeting | None = None,
        wanted: int = TOGETHER,
    ) -> None:
        """Start the ranks of this pod and wait until all have loaded their part, for runs within `limits`.

        `meeting` leads to the ranks in other pods, if there are any; `wanted` is the most positions of a
        row that they give logits of. Raises `RankFailed`.
        """
        self._shape, self._wanted = shape, wanted
        self._pages = 0
        self._lock = threading.Lock()
        self._fault: str | None = None
        self._lies: dict[int, str] = {}
        self._pods = _Pods(meeting.pods if meeting else {})
        elsewhere = meeting.ranks if meeting else {}
        here = [number for number in range(len(shape.ranks)) if number not in elsewhere]
        ours, theirs = zip(*(wire.pair() for _ in here), strict=True)
        peers = {number: meeting.peers(number) for number in here} if meeting else {}
        self._processes = dict(start(shape, dict(zip(here, theirs, strict=True)), peers))
        self._ends: dict[int, Connection] = {**dict(zip(here, ours, strict=True)), **elsewhere}
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._watching = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watching.start()
        with self._at_startup():
            self._seal(elsewhere)
            self._tell(load_message(limits))
            self._replies()

    def open(self, pages: int) -> None:
        """Make the pools, before anything is computed. Raises `RankFailed`."""
        with self._at_startup():
            self._tell(pool_message(pages))
            self._replies()
        self._pages = pages

    @property
    def free(self) -> Sequence[int]:
        """By rank, the memory that is left where its pages will be, in bytes. Raises `RankFailed`."""
        with self._at_startup():
            self._tell(wire.Message(Kind.FREE))
            return [int(answer.arrays[FREE]) for answer in self._replies()]

    @property
    def pages(self) -> int:
        """Pages in the pools of every rank."""
        return self._pages

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self._shape.page_size

    @property
    def wanted(self) -> int:
        """See `Network`."""
        return self._wanted

    @property
    def fault(self) -> str | None:
        """Which rank was lost, and how."""
        return self._fault

    @property
    def processes(self) -> Sequence[int]:
        """Process ids of the ranks in this pod."""
        return [process.pid for process in self._processes.values()]

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See `Network`. Ranks do what they are told in order, so nobody waits for an answer."""
        if pairs:
            self._tell(wire.Message(Kind.COPY, {"pairs": np.asarray(pairs, np.int64)}))

    def hold(self, adapters: Mapping[int, Adapter]) -> None:
        """See `Network`. An adapter is sent once, not with every step."""
        for slot, adapter in adapters.items():
            if self._lies.get(slot) != adapter.identity:
                assert isinstance(adapter, LoraWeights)
                self._tell(adapter_message(slot, adapter))
                self._lies[slot] = adapter.identity

    def run(self, packed: Packed) -> NDArray[np.float32]:
        """See `Network`. Raises `ExecutorBroken` where a rank is lost."""
        return self._told(packed, Kind.STEP, LOGITS)

    def likeliest(self, packed: Packed) -> NDArray[np.int64]:
        """See `Network`. Raises as `run`."""
        return self._told(packed, Kind.TOKENS, TOKENS)

    def _told(self, packed: Packed, kind: Kind, name: str) -> NDArray[Any]:
        """What the rank that speaks says of a run."""
        self._tell(step_message(with_block_tables(packed, self.page_size), kind))
        return next(answer.arrays[name] for answer in self._replies() if name in answer.arrays)

    def close(self) -> None:
        """End all ranks and wait for them."""
        self._lose("the group was closed")
        for process in self._processes.values():
            process.wait()
        self._watching.join()
        for end in (*self._ends.values(), *self._pods.ends.values()):
            end.close()

    @contextlib.contextmanager
    def _at_startup(self) -> Iterator[None]:
        """A rank that is lost now will be lost again."""
        try:
            yield
        except ExecutorBroken as error:
            self.close()
            raise RankFailed(f"the engine cannot be loaded: {error}") from error

    def _seal(self, elsewhere: Mapping[int, socket.socket]) -> None:
        for number, end in elsewhere.items():
            try:
                self._ends[number] = seal(end, self._shape.tls, f"rank {number}", answers=True)
            except (OSError, EOFError) as error:
                self._fail(f"the connection to rank {number} cannot be sealed: {error}")

    def _tell(self, message: wire.Message) -> None:
        self._check()
        for number, end in self._ends.items():
            try:
                wire.send(end, message)
            except OSError:
                self._fail(self._ending(number))

    def _replies(self) -> list[wire.Message]:
        """An answer of every rank, in whatever order they come."""
        answers: dict[int, wire.Message] = {}
        poll = select.poll()
        numbers = {end.fileno(): number for number, end in self._ends.items()}
        for descriptor in numbers:
            poll.register(descriptor, select.POLLIN)
        while len(answers) < len(self._ends):
            for descriptor, _ in poll.poll():
                number = numbers[descriptor]
                poll.unregister(descriptor)
                answers[number] = self._answer(number)
        return [answers[number] for number in range(len(self._ends))]

    def _answer(self, number: int) -> wire.Message:
        try:
            answer = wire.receive(self._ends[number])
        except (EOFError, OSError, ValueError):
            self._fail(self._ending(number))
        if answer.kind == Kind.FAILED:
            self._fail(f"rank {number}: {answer.text}")
        return answer

    def _ending(self, number: int) -> str:
        """How a rank ended. The first that did is the reason; the others were killed for it."""
        process = self._processes.get(number)
        if process is not None:
            return f"rank {number} {ending(process.wait())}"
        pod = number // len(self._processes)
        return self._pods.last_word(pod) or f"rank {number} is gone, see the log of pod {pod}"

    def _fail(self, why: str) -> NoReturn:
        self._lose(why)
        self._check()
        raise AssertionError("a group that was lost has a reason")

    def _check(self) -> None:
        if self._fault is not None:
            raise ExecutorBroken(self._fault)

    def _lose(self, why: str) -> None:
        """Keep the first reason and kill every rank that still lives."""
        with self._lock:
            if self._fault is not None:
                return
            self._fault = why
        for process in self._processes.values():
            process.kill()
        for number in self._ends.keys() - self._processes.keys():
            with contextlib.suppress(OSError):
                self._ends[number].shutdown(socket.SHUT_RDWR)
        self._pods.leave()
        with contextlib.suppress(OSError):
            os.write(self._woken, b"!")

    def _watch(self) -> None:
        """Notice a rank or a pod that is lost while nobody asks it anything."""
        poll = select.poll()
        ends = {os.pidfd_open(process.pid): n for n, process in self._processes.items()}
        for descriptor in (*ends, *self._pods.descriptors, self._wake):
            poll.register(descriptor, select.POLLIN)
        (descriptor, _), *_ = poll.poll()
        if descriptor in ends:
            self._lose(self._ending(ends[descriptor]))
        elif (pod := self._pods.descriptors.get(descriptor)) is not None:
            self._lose(self._pods.last_word(pod) or f"pod {pod} is gone")
        for end in ends:
            os.close(end)


class _Pods:
    """The other pods: they say nothing until they end, and then why."""

    def __init__(self, ends: Mapping[int, socket.socket]) -> None:
        self.ends = ends
        self._lock = threading.Lock()
        self._words: dict[int, str | None] = {}

    @property
    def descriptors(self) -> Mapping[int, int]:
        """The pods' numbers, by descriptor."""
        return {end.fileno(): pod for pod, end in self.ends.items()}

    def last_word(self, pod: int) -> str | None:
        """Why a pod ends; None where it does not say."""
        with self._lock:
            if pod not in self._words:
                self._words[pod] = self._listen(self.ends[pod])
            return self._words[pod]

    def leave(self) -> None:
        """Let all of them end."""
        for end in self.ends.values():
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)

    @staticmethod
    def _listen(end: socket.socket) -> str | None:
        try:
            end.settimeout(_WORD_SECONDS)
            return str(receive_words(end)["lost"])
        except (OSError, EOFError, ValueError, KeyError):
            return None
