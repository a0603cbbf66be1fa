"""What TLS costs ranks in different pods: values exchanged between two processes, open and sealed.

Each size is exchanged in turns, open and sealed, over loopback connections of the same two processes; shown are
medians over the rounds, in wall time and in the CPU time of one process. Sizes are those of activations in
float32: tokens of a step by hidden size.
"""

import argparse
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table
from scheduler import machine

sys.path.insert(0, str(Path(__file__).parents[1]))
from pitcrew_runtime.ranks.sealed import Connection, seal
from pitcrew_runtime.ranks.stream import prepare, swap
from tests.certificates import Authority

SHAPES = ((1, 2048), (32, 2048), (512, 2048), (512, 8192))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        Authority("bench").write(Path(folder))
        plain, sealed = pair(), pair()
        other = os.fork() == 0
        index = int(other)
        ends: list[Connection] = [plain[index]]
        ends.append(seal(sealed[index], Path(folder), "pair 0-1", answers=other))
        figures = [measure(ends, index, shape, rounds) for shape in SHAPES]
        if other:
            os._exit(0)
        os.wait()
    show(figures)


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        caller = socket.create_connection(listener.getsockname())
        called, _ = listener.accept()
    prepare(caller)
    prepare(called)
    return caller, called


def measure(
    ends: list[Connection], index: int, shape: tuple[int, int], rounds: int
) -> list[tuple[float, float]]:
    """For open and sealed: milliseconds of an exchange, and of one process's CPU."""
    value = np.random.default_rng(index).standard_normal(shape).astype(np.float32)
    walls: list[list[float]] = [[], []]
    works: list[list[float]] = [[], []]
    for _ in range(rounds):
        for kind, end in enumerate(ends):
            wall, work = time.perf_counter(), time.process_time()
            swap({1 - index: end}, value)
            walls[kind].append((time.perf_counter() - wall) * 1e3)
            works[kind].append((time.process_time() - work) * 1e3)
    return [(median(walls[kind]), median(works[kind])) for kind in range(2)]


def show(figures: list[list[tuple[float, float]]]) -> None:
    """The table."""
    table = Table(title=f"exchanges of two ranks over loopback, on {machine()}")
    for heading in ("float32", "KiB", "open ms", "TLS ms", "ratio", "open CPU ms", "TLS CPU ms"):
        table.add_column(heading, justify="right")
    for shape, ((open_wall, open_work), (wall, work)) in zip(SHAPES, figures, strict=True):
        size = shape[0] * shape[1] * 4 // 1024
        numbers = (f"{open_wall:.2f}", f"{wall:.2f}", f"{wall / open_wall:.1f}")
        table.add_row(
            f"{shape[0]} x {shape[1]}", f"{size:,}", *numbers, f"{open_work:.2f}", f"{work:.2f}"
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
