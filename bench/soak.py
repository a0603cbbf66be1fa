"""A server under twice the load that it can take, with clients that leave: what is lost or leaked?

Serves an engine as a process, measures how many requests it completes per second, and then sends
twice as many at random times, some with a common beginning, some for several choices. What else the
machine does changes the capacity: every ten seconds the rate becomes twice what was accepted in
these. A third of the clients leave at a random moment. The server computes with one thread, so that
the clients, on the same machine, can ask for more than it gives. Bars: at least 1.5 times what is
accepted was asked for, every answer is 200 or 429, every stream that is read to its end has one,
every accepted request ends exactly once, no page stays in use, and the private memory at the end is
at most 5 % more than it was when a fifth of the time was over. Private is what the process alone
has, in memory or swapped out. Pages of files (weights, libraries) are resident too, but the kernel
takes them when others need memory, and gives them back: they say nothing of leaks.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table
from scheduler import machine

from pitcrew_runtime.top.scrape import Scrape, parse

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "samples/models/tiny-kjv"
OPTIONS = ("--max-waiting", "16", "--max-batch-size", "16", "--kv-memory", "1Mi", "--threads", "1")
"""So little that requests are refused and sequences preempted."""
CLIENTS = 32
"""That measure the capacity: each sends its next request when it has the answer to the last."""
CALIBRATION_SECONDS = 10.0
PERIOD_SECONDS = 10.0
OVERLOAD = 2.0
OVERLOAD_SHOWN = 1.5
"""What the clients, who need the same processors, have to reach of it."""
LEAVING = 1 / 3
DATA, DONE = b"data: ", b"data: [DONE]\n"
ENDED = b'"finish_reason":"'
"""In an event that ends a choice; the others are not parsed, which would cost the clients more than all else."""
WARM = 1 / 5
GROWTH_TOLERATED = 0.05
BEGINNINGS = (
    "In the beginning God created the heaven and the earth.",
    "And it came to pass, when men began to multiply on the face of the earth,",
    "",
)


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    choices: int = 0
    """Sequences that are known to be accepted."""
    unknown: int = 0
    """Sequences of clients that left before they were told whether they were accepted."""
    whole: int = 0
    left: int = 0
    cut: list[str] = field(default_factory=list)
    """Streams that ended without an end, and other surprises."""


@dataclass(frozen=True)
class Memory:
    """Bytes of the server after so many seconds."""

    at: float
    private: int
    resident: int


def main() -> int:
    """Soak and print; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--engine", type=Path, help="default: one of tiny-kjv, built for this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("options", nargs="*", help="more options for pitcrew-serve, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        engine = arguments.engine or build(Path(work))
        with serving(engine, Path(work, "log"), arguments.options) as (process, url):
            rng = random.Random(arguments.seed)
            return asyncio.run(soak(process.pid, url, arguments.minutes * 60, rng))


def build(work: Path) -> Path:
    """An engine of the sample model."""
    command = [sys.executable, "-m", "pitcrew_builder.cli", "build", "--progress", "none"]
    command += ["--model", str(CHECKPOINT), "--store", str(work / "store")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (manifest,) = (work / "store").glob("*/*/*/*/manifest.json")
    return manifest.parent


@contextlib.contextmanager
def serving(
    engine: Path, log: Path, more: list[str]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server that is ready, and its address."""
    command = [sys.executable, "-m", "pitcrew_runtime.cli", "--engine", str(engine)]
    command += ["--port", "0", "--served-model-name", "soak", *OPTIONS, *more]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        while (port := re.search(rb"Listening on \S+ port (\d+)", log.read_bytes())) is None:
            check_alive(process, log)
        url = f"http://127.0.0.1:{int(port[1])}"
        while not is_ready(url):
            check_alive(process, log)
        yield process, url
    finally:
        process.terminate()
        process.wait(60)


def check_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait a moment; raises `SystemExit` where the server has ended."""
    if process.poll() is not None:
        raise SystemExit(f"the server ended with {process.returncode}:\n{log.read_text()}")
    time.sleep(0.05)


def is_ready(url: str) -> bool:
    """Whether the server would take a request."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def soak(pid: int, url: str, seconds: float, rng: random.Random) -> int:
    """The whole experiment."""
    # Connections are given up before the server closes them: a request must not meet that moment.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
    timeout = aiohttp.ClientTimeout(total=120.0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as client:
        capacity = await measure_capacity(client, rng)
        before = await scrape(client)
        tally, memory = Tally(), [memory_of(pid, 0.0)]
        watching = asyncio.create_task(watch(pid, memory))
        await overload(client, tally, capacity * OVERLOAD, seconds, rng)
        after = await settled(client)
        watching.cancel()
    return show(capacity, seconds, tally, memory, before, after)


async def measure_capacity(client: aiohttp.ClientSession, rng: random.Random) -> float:
    """Requests per second that are completed when nobody leaves."""
    tally, start = Tally(), time.monotonic()

    async def one_after_another() -> None:
        while time.monotonic() - start < CALIBRATION_SECONDS:
            await ask(client, tally, body(rng), None)

    await asyncio.gather(*(one_after_another() for _ in range(CLIENTS)))
    return tally.whole / (time.monotonic() - start)


async def overload(
    client: aiohttp.ClientSession, tally: Tally, rate: float, seconds: float, rng: random.Random
) -> None:
    """Requests at random times, `rate` a second at first, then twice what is accepted.

    Who is late for a request does not make up for it: the time is bounded, not the number.
    """
    start, due, now = time.monotonic(), 0.0, 0.0
    measured, accepted = 0.0, 0
    async with asyncio.TaskGroup() as group:
        while (due := max(due, now) + rng.expovariate(rate)) < seconds:
            await asyncio.sleep(start + due - time.monotonic())
            now = time.monotonic() - start
            if (span := now - measured) > PERIOD_SECONDS:
                rate = max(1.0, OVERLOAD * (tally.statuses[200] - accepted) / span)
                measured, accepted = measured + span, tally.statuses[200]
            patience = rng.uniform(0.0, 2.0) if rng.random() < LEAVING else None
            group.create_task(ask(client, tally, body(rng), patience))


EXTRAS: tuple[dict[str, object], ...] = (
    {},
    {},
    {},
    {"echo": True, "logprobs": 2},
    {"guided_regex": "[a-z ]{4,60}", "ignore_eos": False},
    {"stop": ["the", ","], "presence_penalty": 0.5},
)


def body(rng: random.Random) -> dict[str, object]:
    """A request."""
    return {
        "model": "soak",
        "prompt": f"{rng.choice(BEGINNINGS)} {rng.randrange(1000)} ",
        "max_tokens": rng.randint(4, 64),
        "n": rng.choice((1, 1, 1, 2)),
        "temperature": rng.choice((0.0, 0.8)),
        "ignore_eos": True,
        "stream": True,
        **rng.choice(EXTRAS),
    }


async def ask(
    client: aiohttp.ClientSession, tally: Tally, asked: dict[str, object], patience: float | None
) -> None:
    """One client, who leaves after `patience` seconds if that is not None."""
    told = asyncio.Event()
    try:
        async with asyncio.timeout(patience):
            await read(client, tally, asked, told)
    except TimeoutError:
        tally.left += 1
        tally.unknown += 0 if told.is_set() else int(str(asked["n"]))
    except aiohttp.ClientError as error:
        tally.cut.append(f"{type(error).__name__}: {error}")


async def read(
    client: aiohttp.ClientSession, tally: Tally, asked: dict[str, object], told: asyncio.Event
) -> None:
    """One stream, to its end; `told` is set once the server has said whether it was accepted."""
    choices, ends = int(str(asked["n"])), Counter[object]()
    async with client.post("/v1/completions", json=asked) as answer:
        told.set()
        tally.statuses[answer.status] += 1
        if answer.status != 200:
            await answer.read()
            return
        tally.choices += choices
        async for line in answer.content:
            if line == DONE:
                ends[DONE] += 1
            elif ENDED in line:
                found = json.loads(line.removeprefix(DATA))
                ends.update(
                    one["index"] for one in found.get("choices", ()) if one["finish_reason"]
                )
    if ends == Counter([DONE, *range(choices)]):
        tally.whole += 1
    else:
        tally.cut.append(f"a stream of {choices} with the ends {dict(ends)}")


async def scrape(client: aiohttp.ClientSession) -> Scrape:
    """The server's metrics."""
    async with client.get("/metrics") as answer:
        return parse(await answer.text(), time.monotonic())


async def settled(client: aiohttp.ClientSession) -> Scrape:
    """The metrics once nothing waits or runs, or after half a minute."""
    deadline = time.monotonic() + 30.0
    while True:
        found = await scrape(client)
        alive = found.value("pitcrew_requests_running") + found.value("pitcrew_requests_waiting")
        if not alive or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.1)


async def watch(pid: int, memory: list[Memory]) -> None:
    """Note the server's memory every second."""
    start = time.monotonic()
    while True:
        await asyncio.sleep(1.0)
        memory.append(memory_of(pid, time.monotonic() - start))


def memory_of(pid: int, at: float) -> Memory:
    """What the kernel says of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = {name: int(kib) << 10 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", status)}
    return Memory(at, found["RssAnon"] + found["VmSwap"], found["VmRSS"])


def compared(warm: int, end: int) -> str:
    """Bytes at two times."""
    return f"{warm / 2**20:.0f} MiB, {end / 2**20:.0f} MiB ({end / warm - 1:+.1%})"


def show(
    capacity: float,
    seconds: float,
    tally: Tally,
    memory: list[Memory],
    before: Scrape,
    after: Scrape,
) -> int:
    """Print the table; 1 where a bar is missed."""

    def gained(name: str) -> float:
        return after.value(name) - before.value(name)

    # Who left before the answer began does not know whether the request was accepted.
    ended, known = gained("pitcrew_requests_finished_total"), tally.choices
    most = known + tally.unknown
    warm, end = next(one for one in memory if one.at >= seconds * WARM), memory[-1]
    alive = after.value("pitcrew_requests_running") + after.value("pitcrew_requests_waiting")
    answered, accepted = sum(tally.statuses.values()), tally.statuses[200]
    overload = answered / accepted if accepted else 0.0
    rows = [
        ("requests answered", f"{answered}, {answered / seconds:.1f}/s", None),
        ("capacity before", f"{capacity:.1f}/s", None),
        ("accepted", f"{accepted / seconds:.1f}/s", None),
        ("asked for, of what was accepted", f"{overload:.2f}", overload >= OVERLOAD_SHOWN),
        ("answers by status", str(dict(tally.statuses)), set(tally.statuses) <= {200, 429}),
        ("refused with 429", str(tally.statuses[429]), tally.statuses[429] > 0),
        ("clients that left", str(tally.left), tally.left > 0),
        ("streams read to their end", str(tally.whole), tally.whole > 0),
        ("streams cut, other faults", f"{len(tally.cut)} {tally.cut[:2] or ''}", not tally.cut),
        (
            "sequences accepted, and ended",
            f"from {known} to {most}, {ended:.0f}",
            known <= ended <= most,
        ),
        ("alive at the end", f"{alive:.0f}", alive == 0),
        (
            "KV pages in use at the end",
            f"{after.value('pitcrew_kv_cache_usage_ratio'):.2%}",
            after.value("pitcrew_kv_cache_usage_ratio") == 0,
        ),
        ("preemptions", f"{gained('pitcrew_preemptions_total'):.0f}", None),
        ("prefix tokens found", f"{gained('pitcrew_prefix_cache_hit_tokens_total'):.0f}", None),
        (
            f"private memory after {seconds * WARM:.0f} s and at the end",
            compared(warm.private, end.private),
            end.private <= warm.private * (1 + GROWTH_TOLERATED),
        ),
        ("resident memory at these times", compared(warm.resident, end.resident), None),
    ]
    title = f"{seconds / 60:g} minutes at {OVERLOAD:g} times the capacity, on {machine()}"
    table = Table(title=title)
    for heading in ("what", "seen", ""):
        table.add_column(heading)
    for what, seen, good in rows:
        table.add_row(what, seen, "" if good is None else "met" if good else "missed")
    Console(width=120).print(table)
    return 0 if all(good is not False for _, _, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
