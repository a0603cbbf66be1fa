"""Wakes the event loop from the engine's thread without handing it the interpreter at once.

`call_soon_threadsafe` writes to a socket and lets go of the interpreter meanwhile: whatever the event
loop has to do for one step then stands between it and the next. Here the engine only opens a lock.
A thread of the bell's own waits behind it, and gets its turn when the engine lets go of the
interpreter anyway: while the network computes. So text is written during the next step.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVarTuple

Args = TypeVarTuple("Args")


class Bell:
    """Has callbacks called on an event loop, in their order."""

    def __init__(self, events: asyncio.AbstractEventLoop) -> None:
        self._events = events
        self._waiting: deque[Callable[[], object]] = deque()
        self._closing = False
        self._door = threading.Lock()
        self._door.acquire()
        threading.Thread(target=self._listen, name="bell", daemon=True).start()

    def ring(self, callback: Callable[[*Args], object], *arguments: *Args) -> None:
        """Have it called. Nothing happens where the loop is gone."""
        self._waiting.append(partial(callback, *arguments))
        self._open()

    def close(self) -> None:
        """Call what was rung for, and end the thread."""
        self._closing = True
        self._open()

    def _open(self) -> None:
        # An open one is as good.
        with contextlib.suppress(RuntimeError):
            self._door.release()

    def _listen(self) -> None:
        # The event loop is gone only when the process is leaving.
        with contextlib.suppress(RuntimeError):
            while not self._closing or self._waiting:
                self._door.acquire()
                while self._waiting:
                    self._events.call_soon_threadsafe(self._waiting.popleft())
