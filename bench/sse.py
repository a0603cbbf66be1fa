"""How many server-sent events a second go through the server: an executor that computes nothing.

    python bench/sse.py [--streams 64] [--tokens 400] [--repeats 5]

A server process and a client process on loopback; every token is an event of its own, written when
it is made, or together with the next where the engine is ahead of the network. The bar is 20,000 events a second with 64 streams. Beside the time on the clock stands
the server's CPU time, which neighbours on the machine do not change as much.
"""

import argparse
import asyncio
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvicorn
from rich.console import Console
from rich.table import Table

from pitcrew_runtime.core.batch import StepBatch
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Chosen
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import Sampled
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.host import Host
from pitcrew_runtime.loading import Loaded, load_language
from pitcrew_runtime.server.keys import Keyring
from pitcrew_runtime.testing import NullExecutor

ROOT = Path(__file__).parents[1]
BAR = 20_000
WORD = 300
"""A token of the sample's vocabulary that shows."""
LENGTH, PAGE = 1024, 16


class Talker(NullExecutor):
    """Says one word for ever."""

    def execute(self, batch: StepBatch) -> list[Chosen]:
        """The same token for each row that asks for one."""
        return [(Sampled(WORD),) if row.sampling is not None else () for row in batch.rows]


@dataclass(frozen=True)
class Repeat:
    """One run."""

    seconds: float
    cpu_seconds: float
    events: int
    writes: int
    """Of the server: chunks of the answers."""
    first: float
    """Median of the seconds to a stream's first event."""


def loaded(engine_directory: Path, streams: int) -> Loaded:
    """The sample's language over an engine that computes nothing."""
    directory = open_engine(engine_directory, 1)
    pages = streams * LENGTH // PAGE
    limits = Limits(
        max_running=streams,
        max_step_tokens=4096,
        max_waiting=4 * streams,
        max_sequence_length=LENGTH,
        page_size=PAGE,
    )
    engine = Engine(Scheduler(limits, PageAllocator(pages)), Talker(pages))
    return Loaded("sse", directory.manifest, engine, load_language(directory, LENGTH), None)


class Unproven(Host):
    """Says nothing that a canary could prove."""

    def _warm_up(self, *_: object) -> None:
        return


async def serve(engine_directory: Path, streams: int) -> None:
    """The server process: prints its port, and its CPU time whenever it is asked for a line."""
    host = Unproven(loaded(engine_directory, streams), 60.0, asyncio.Event())
    host.start()
    app = host.app(1 << 20, Keyring(), None)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells it in no other way
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(used.ru_utime + used.ru_stime, flush=True)
    server.should_exit = True
    await serving
    host.stop()


async def stream(port: int, tokens: int) -> tuple[int, int, float]:
    """Events of one answer, the writes that they came in, and the seconds to the first."""
    body = {
        "model": "sse", "prompt": "Hail", "max_tokens": tokens, "stream": True, "ignore_eos": True
    }  # fmt: skip
    raw = orjson.dumps(body)
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + raw)
    events, writes, first, tail = 0, 0, 0.0, b""
    while piece := await reader.read(1 << 16):
        text = tail + piece
        found = text.count(b"data: {")
        if found and not events:
            first = time.perf_counter() - started
        events += found
        # A chunk ends with an event's empty line and its own line's end.
        writes += piece.count(b"\n\n\r\n")
        # A mark that is cut in two by a read is counted with the next.
        keep = max(0, text.rfind(b"\n") + 1)
        tail = text[keep:] if b"data: {" not in text[keep:] else b""
    writer.close()
    return events, writes, first


async def measure(port: int, streams: int, tokens: int) -> tuple[float, int, int, float]:
    """Seconds, events, writes and the median time to a first event of all streams at once."""
    started = time.perf_counter()
    found = await asyncio.gather(*(stream(port, tokens) for _ in range(streams)))
    seconds = time.perf_counter() - started
    events, writes = (sum(one[index] for one in found) for index in (0, 1))
    return seconds, events, writes, statistics.median(one[2] for one in found)


def repeats(options: argparse.Namespace, engine: Path) -> list[Repeat]:
    """All runs against one server; the first one warms it up and is not counted."""
    command = [sys.executable, __file__, "--serve", str(engine), "--streams", str(options.streams)]
    pipe = subprocess.PIPE
    found = []
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())

        def cpu() -> float:
            server.stdin.write("\n")
            return float(server.stdout.readline())

        for _ in range(options.repeats + 1):
            before = cpu()
            seconds, *seen = asyncio.run(measure(port, options.streams, options.tokens))
            found.append(Repeat(seconds, cpu() - before, *seen))
        server.stdin.close()
    return found[1:]


def show(options: argparse.Namespace, found: list[Repeat]) -> None:
    """Print the table."""
    with open("/proc/cpuinfo") as info:
        names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    title = (
        f"{options.streams} streams of {options.tokens} tokens, Python {platform.python_version()} on "
        f"{len(names)} × {names[0] if names else platform.machine()}, load {os.getloadavg()[0]:.1f}"
    )
    table = Table("figure", "median", "least", "most", title=title, title_justify="left")
    figures = {
        f"events a second (bar {BAR:,})": [one.events / one.seconds for one in found],
        "events a second of the server's CPU": [one.events / one.cpu_seconds for one in found],
        "writes a second": [one.writes / one.seconds for one in found],
        "milliseconds to a first event": [one.first * 1e3 for one in found],
    }
    for name, values in figures.items():
        told = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{value:,.0f}" for value in told))
    Console(width=120).print(table)


def main() -> None:
    """Measure, or be the server that is measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve, options.streams))
        return
    with tempfile.TemporaryDirectory() as store:
        build = [sys.executable, "-m", "pitcrew_builder.cli", "build", "--progress", "none"]
        build += ["--model", str(ROOT / "samples/models/tiny-kjv"), "--store", store]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (manifest,) = Path(store).glob("*/*/*/*/manifest.json")
        show(options, repeats(options, manifest.parent))


if __name__ == "__main__":
    main()
