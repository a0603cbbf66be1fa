"""What the person at the terminal sees while a stage runs: its name, its time, its last word.

On a terminal the line is alive; elsewhere a stage prints once when it ends and, while it is long,
every half minute, so that a log stays readable and a silent build is never mistaken for a hang.
"""

import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

BEAT_TERMINAL = 0.2
BEAT_LOG = 30.0


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 7.4 s, 93 s, 6 min 12 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


class Stage:
    """A context manager around one stage; `say` may be called from any thread."""

    def __init__(self, title: str, hint: str = "", out: TextIO | None = None) -> None:
        self._title = title
        self._hint = hint
        self._out = out or sys.stderr
        self._word = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._began = 0.0

    def say(self, word: str) -> None:
        """Show one short word of detail beside the stage, such as the file in hand."""
        self._word = word

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._hint:
            self._write(f"  {self._title} ({self._hint}) ...", final=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        mark = "✓" if kind is None else "✗"
        elapsed = clock(time.monotonic() - self._began)
        self._write(f"{mark} {self._title:<44} {elapsed:>12}  {self._word}".rstrip(), final=True)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_TERMINAL if self._out.isatty() else BEAT_LOG):
            elapsed = clock(time.monotonic() - self._began)
            line = f"  {self._title:<44} {elapsed:>12}  {self._word}".rstrip()
            self._write(line, final=not self._out.isatty())

    def _write(self, line: str, *, final: bool) -> None:
        start = "\r\x1b[K" if self._out.isatty() else ""
        self._out.write(f"{start}{line}" + ("\n" if final else ""))
        self._out.flush()


def note(text: str) -> None:
    """One line for the person at the terminal, outside any stage."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
