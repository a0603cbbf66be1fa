"""Running programs, and knowing a process again later."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from devcluster.errors import CommandError, DevclusterError

TAIL = 4000


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | None = None,
    log: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """Run a program to its end and return what it printed, stdout and stderr together.

    `env` is laid over this process's own; `say` hears every line while it is printed.

    Raises:
        CommandError: the exit code is not 0; all that was printed is in `log`, if given.
    """
    words = [str(word) for word in command]
    lines: list[str] = []
    with _start(words, env, cwd, stdin) as process:
        for line in process.stdout or ():
            lines.append(line)
            if say:
                say(line.strip()[-60:])
    text = "".join(lines)
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text)
    if process.returncode:
        raise CommandError(words, process.returncode, text[-TAIL:])
    return text


def _start(
    words: list[str], env: Mapping[str, str] | None, cwd: Path | None, stdin: IO[bytes] | None
) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(
            words,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise DevclusterError(f"{words[0]}: no such program; install it, then try again") from error


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one of the same number.

    `started` is its start time in clock ticks since `boot`; together the three are unique.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Know the running process `pid` from now on.

        Raises:
            DevclusterError: no such process.
        """
        started = _start_ticks(pid)
        if started is None:
            raise DevclusterError(f"process {pid} ended before it could be recorded")
        return cls(pid, started, _boot_id())

    def alive(self) -> bool:
        """Does this very process still run?"""
        return self.boot == _boot_id() and _start_ticks(self.pid) == self.started

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it if it still runs; a stranger with the same number is left alone."""
        with contextlib.suppress(ProcessLookupError):  # it may end between question and signal
            if self.alive():
                os.kill(self.pid, number)

    def children(self) -> list[int]:
        """The process numbers of its direct children."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        try:
            return [int(word) for word in path.read_text().split()] if self.alive() else []
        except OSError:
            return []

    def to_json(self) -> str:
        """The record that `from_json` reads."""
        return json.dumps(asdict(self))


def start_ticks(stat: str) -> int | None:
    """The start time of a process from its /proc/PID/stat, or None for a zombie."""
    # The name, in parentheses, may hold anything, parentheses and spaces too.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _start_ticks(pid: int) -> int | None:
    try:
        return start_ticks(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def wait_until(
    check: Callable[[], bool],
    seconds: float,
    *,
    every: float = 0.1,
    alive: Callable[[], bool] | None = None,
) -> bool:
    """Poll until `check` holds; False after `seconds`, or as soon as `alive` no longer holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        if alive and not alive():
            return False
        time.sleep(every)
    return check()
