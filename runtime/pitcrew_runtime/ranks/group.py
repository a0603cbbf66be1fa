"""The leader's side of an engine that is split: starts a process for each rank and speaks to them.

Ranks stand and fall together, since each waits for the others. The first that ends, or says that
it cannot go on, ends the group: the rest are killed at once and the reason is kept. Should the
leader end, however it does, the kernel kills its ranks.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import GraphInterface
from pitcrew_runtime.adapters.weights import LoraWeights
from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.core.executor import ExecutorBroken
from pitcrew_runtime.errors import RankFailed
from pitcrew_runtime.execution.packing import Packed
from pitcrew_runtime.ranks import wire
from pitcrew_runtime.ranks.messages import Kind, adapter_message, pool_message, step_message
from pitcrew_runtime.ranks.wiring import Wires
from pitcrew_runtime.ranks.wiring import wire as wire_up
from pitcrew_runtime.ranks.worker import Orders


@dataclass(frozen=True, slots=True)
class GroupShape:
    """What the ranks share."""

    engine: Path
    ranks: tuple[GraphInterface, ...]
    page_size: int
    adapter_slots: int
    threads: int
    """Of each rank."""


class RankGroup:
    """A `Network` whose parts are processes."""

    def __init__(self, shape: GroupShape) -> None:
        """Start all ranks and wait until each has loaded its part. Raises `RankFailed`."""
        self._shape = shape
        self._pages = 0
        self._lock = threading.Lock()
        self._fault: str | None = None
        self._lies: dict[int, str] = {}
        self._ranks = list(_start(shape))
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        with self._at_startup():
            self._replies()

    def open(self, pages: int) -> None:
        """Make the pools, before anything is computed. Raises `RankFailed`."""
        with self._at_startup():
            self._tell(pool_message(pages))
            self._replies()
        self._pages = pages

    @property
    def pages(self) -> int:
        """Pages in the pools of every rank."""
        return self._pages

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self._shape.page_size

    @property
    def fault(self) -> str | None:
        """Which rank was lost, and how."""
        return self._fault

    @property
    def processes(self) -> Sequence[int]:
        """Process ids, by rank."""
        return [rank.process.pid for rank in self._ranks]

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
        self._tell(step_message(packed))
        answers = self._replies()
        logits: NDArray[np.float32] = next(
            answer.arrays["logits"] for answer in answers if "logits" in answer.arrays
        )
        return logits

    def close(self) -> None:
        """End all ranks and wait for them."""
        self._lose("the group was closed")
        for rank in self._ranks:
            rank.process.wait()
            rank.end.close()

    @contextlib.contextmanager
    def _at_startup(self) -> Iterator[None]:
        """A rank that is lost now will be lost again."""
        try:
            yield
        except ExecutorBroken as error:
            self.close()
            raise RankFailed(f"the engine cannot be loaded: {error}") from error

    def _tell(self, message: wire.Message) -> None:
        self._check()
        for number, rank in enumerate(self._ranks):
            try:
                wire.send(rank.end, message)
            except OSError:
                self._fail(self._ending(number))

    def _replies(self) -> list[wire.Message]:
        """An answer of every rank, in whatever order they come."""
        answers: dict[int, wire.Message] = {}
        poll = select.poll()
        numbers = {rank.end.fileno(): number for number, rank in enumerate(self._ranks)}
        for descriptor in numbers:
            poll.register(descriptor, select.POLLIN)
        while len(answers) < len(self._ranks):
            for descriptor, _ in poll.poll():
                number = numbers[descriptor]
                poll.unregister(descriptor)
                answers[number] = self._answer(number)
        return [answers[number] for number in range(len(self._ranks))]

    def _answer(self, number: int) -> wire.Message:
        try:
            answer = wire.receive(self._ranks[number].end)
        except (EOFError, OSError):
            self._fail(self._ending(number))
        if answer.kind == Kind.FAILED:
            self._fail(f"rank {number}: {answer.text}")
        return answer

    def _ending(self, number: int) -> str:
        """How a rank ended. The first that did is the reason; the others were killed for it."""
        code = self._ranks[number].process.wait()
        return f"rank {number} {_told(code)}"

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
        for rank in self._ranks:
            rank.process.kill()
        with contextlib.suppress(OSError):
            os.write(self._woken, b"!")

    def _watch(self) -> None:
        """Notice a rank that ends while nobody asks it anything."""
        poll = select.poll()
        ends = {os.pidfd_open(rank.process.pid): n for n, rank in enumerate(self._ranks)}
        for descriptor in (*ends, self._wake):
            poll.register(descriptor, select.POLLIN)
        (descriptor, _), *_ = poll.poll()
        if descriptor in ends:
            self._lose(self._ending(ends[descriptor]))
        for end in ends:
            os.close(end)


@dataclass(frozen=True, slots=True)
class _Rank:
    process: subprocess.Popen[bytes]
    end: socket.socket


def _start(shape: GroupShape) -> Iterator[_Rank]:
    wires = wire_up(shape.ranks)
    try:
        for number in range(len(shape.ranks)):
            yield _start_rank(shape, number, wires.of(number))
    finally:
        for descriptor in wires.descriptors:
            os.close(descriptor)


def _start_rank(shape: GroupShape, number: int, wires: Wires) -> _Rank:
    ours, theirs = wire.pair()
    orders = Orders(
        engine=str(shape.engine),
        rank=number,
        adapter_slots=shape.adapter_slots,
        threads=shape.threads,
        control=theirs.fileno(),
        wires=wires,
        leader=os.getpid(),
    )
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "pitcrew_runtime.ranks.worker", orders.model_dump_json()],
            pass_fds=[theirs.fileno(), *wires.descriptors],
            stdin=subprocess.DEVNULL,
        )
    return _Rank(process, ours)


def _told(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = "; its memory may not have sufficed" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
