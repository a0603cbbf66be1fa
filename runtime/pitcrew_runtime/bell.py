"""Wakes the event loop from the engine's thread without handing it the interpreter at once.

`call_soon_threadsafe` writes to a socket and lets go of the interpreter meanwhile: whatever the event
loop has to do for one step then stands between it and the next. Here the kernel's counter behind a
file descriptor (eventfd(2)) is raised by a call that keeps the interpreter. The event loop wakes, and
gets its turn when the engine lets go anyway: while the network computes. So text is written during the
next step.
"""

import asyncio
import contextlib
import ctypes
import os
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVarTuple

Args = TypeVarTuple("Args")

_eventfd_write = ctypes.PyDLL(None).eventfd_write
"""`os.eventfd_write` lets go of the interpreter; functions of a `PyDLL` do not."""
_eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)


class Bell:
    """Has callbacks called on an event loop, in their order. Made there."""

    def __init__(self, events: asyncio.AbstractEventLoop) -> None:
        self._events = events
        self._waiting: deque[Callable[[], object]] = deque()
        self._counter = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # As long as anybody can ring, the number is nobody else's.
        weakref.finalize(self, os.close, self._counter).atexit = False
        events.add_reader(self._counter, self._hear)

    def ring(self, callback: Callable[[*Args], object], *arguments: *Args) -> None:
        """Have it called, from any thread. Nothing happens where the loop is gone."""
        self._waiting.append(partial(callback, *arguments))
        _eventfd_write(self._counter, 1)

    def close(self) -> None:
        """Call what was rung for, and listen no more."""
        with contextlib.suppress(RuntimeError):  # the loop is gone
            self._events.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._events.remove_reader(self._counter)
        self._call()

    def _hear(self) -> None:
        os.eventfd_read(self._counter)
        self._call()

    def _call(self) -> None:
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            if self._waiting:  # one of them has raised, which the loop tells
                self._events.call_soon(self._call)
