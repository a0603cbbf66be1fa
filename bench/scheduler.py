"""What the scheduler costs: an executor that computes nothing, one core.

Bars: a step of 256 running sequences takes at most 300 µs in the median and 1 ms in the 99th
percentile, 10,000 waiting requests slow it by no more than 2, and 1,000 requests of 64 tokens each
are admitted and completed per second. Short prompts have their first token within 4 steps, in the
99th percentile, although long ones take tens of steps each. All other figures are CPU time of one thread, so that a neighbour's
turn on the core does not count, and medians of several repeats; a neighbour on the other half of the
core still slows them, which the time of an empty loop beside them shows.
"""

import argparse
import gc
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import Request
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.testing import NullExecutor

RUNNING = 256
PAGE = 16
PROMPT = 64
TOKENS = 64
LONG = 4096
WAITING = 10_000
PROMPT_LONG = 16_000
RARITY = 50
"""Of prompts of that length."""
MICROSECONDS = 1e6


@dataclass(frozen=True)
class Figure:
    """One line of the table; `bar` is the worst that is good."""

    name: str
    unit: str
    repeats: list[float]
    bar: float
    more_is_better: bool = False

    @property
    def value(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.repeats)

    @property
    def met(self) -> bool:
        """The value is not beyond the bar."""
        return self.value >= self.bar if self.more_is_better else self.value <= self.bar


def main() -> int:
    """Measure and print; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="steps in each repeat")
    parser.add_argument("--requests", type=int, default=3000, help="requests in each repeat")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures = measure(options.repeats, options.steps, options.requests)
    show(figures)
    return 0 if all(figure.met for figure in figures) else 1


def measure(repeats: int, steps: int, requests: int) -> list[Figure]:
    """All figures."""
    alone, crowded, rates, empty, waits = [], [], [], [], []
    for repeat in range(repeats):
        empty.append(timed(empty_loop) * 1000)
        alone.append(step_times(steps, waiting=0))
        crowded.append(step_times(steps, waiting=WAITING))
        rates.append(completed_per_second(requests))
        waits.append(steps_to_first_tokens(steps, repeat))
    slower = [median(some) / median(none) for some, none in zip(crowded, alone, strict=True)]
    return [
        Figure("step, median", "µs", [median(one) for one in alone], 300),
        Figure("step, 99th percentile", "µs", [percentile(one) for one in alone], 1000),
        Figure(
            f"step with {WAITING} waiting, 99th percentile",
            "µs",
            [percentile(one) for one in crowded],
            1000,
        ),
        Figure(f"step with {WAITING} waiting / without", "×", slower, 2),
        Figure(f"requests of {TOKENS} tokens", "/s", rates, 1000, more_is_better=True),
        Figure(
            f"first tokens of short prompts, one in {RARITY} of {PROMPT_LONG}, 99th percentile",
            "steps",
            [percentile(one) for one in waits],
            4,
        ),
        Figure("an empty loop of a million", "ms", empty, math.inf),
    ]


def step_times(steps: int, waiting: int) -> list[float]:
    """Microseconds of each step that decodes `RUNNING` sequences and nothing else."""
    engine = build(waiting + RUNNING)
    for request in take(RUNNING + waiting, LONG - PROMPT):
        engine.submit(request)
    while engine.step(0.0).tokens > RUNNING:
        pass
    settle()
    return [timed(lambda: engine.step(0.0)) * MICROSECONDS for _ in range(steps)]


def completed_per_second(requests: int) -> float:
    """Requests that come, as many as may wait, until so many have ended."""
    engine = build(RUNNING)
    coming = take(requests, TOKENS)
    settle()
    done = 0
    start = time.thread_time()
    while done < requests:
        while engine.gauges().waiting < RUNNING and (request := next(coming, None)):
            engine.submit(request)
        done += sum(update.finish is not None for update in engine.step(0.0).updates)
    return requests / (time.thread_time() - start)


def steps_to_first_tokens(steps: int, seed: int) -> list[float]:
    """Of short prompts that come at random times, one every other step, among some very long ones."""
    limits = Limits(64, 576, steps, 2 * PROMPT_LONG, PAGE, prefix_cache=False)
    pages = 64 * limits.pages_for(PROMPT_LONG)
    engine = Engine(Scheduler(limits, PageAllocator(pages)), NullExecutor(pages))
    dice, came, took = random.Random(seed), dict[int, int](), dict[int, float]()
    for step in range(steps):
        if dice.random() < 0.5:
            length = PROMPT_LONG if dice.random() < 1 / RARITY else dice.randint(10, 200)
            engine.submit(Request(step, (step,) * length, 32, step / 30))
            if length < PROMPT_LONG:
                came[step] = step
        for update in engine.step(step / 30).updates:
            if update.request_id in came:
                took[update.request_id] = 1.0 + step - came.pop(update.request_id)
    return list(took.values())


def build(waiting: int) -> Engine:
    """An engine whose pool has room for all that may run."""
    limits = Limits(RUNNING, 4 * RUNNING + PROMPT, waiting, LONG, PAGE)
    pages = RUNNING * LONG // PAGE
    return Engine(Scheduler(limits, PageAllocator(pages)), NullExecutor(pages))


def take(count: int, tokens: int) -> Iterator[Request]:
    """Requests that share no beginning."""
    for number in range(count):
        yield Request(number, (number, *range(1, PROMPT)), tokens, 0.0)


def settle() -> None:
    """As a server does after its warm-up: what lives now is not looked at again and again."""
    gc.collect()
    gc.freeze()


def empty_loop() -> None:
    """What the machine gives at the moment."""
    for _ in range(1_000_000):
        pass


def timed(work: Callable[[], object]) -> float:
    """Seconds of CPU that something takes."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def median(times: list[float]) -> float:
    """Of one repeat."""
    return statistics.median(times)


def percentile(times: list[float]) -> float:
    """The 99th of one repeat."""
    return statistics.quantiles(times, n=100)[98]


def show(figures: list[Figure]) -> None:
    """Print the table."""
    table = Table(
        title=f"Scheduler, {RUNNING} running, Python {platform.python_version()} on one core of "
        f"{machine()} (load {os.getloadavg()[0]:.1f})",
        title_justify="left",
    )
    for heading in ("figure", "median", "least", "most", "bar", ""):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for one in figures:
        bar = f"{'≥' if one.more_is_better else '≤'} {one.bar:,g} {one.unit}"
        values = (one.value, min(one.repeats), max(one.repeats))
        told = (f"{value:,.4g}" for value in values)
        verdict = ("met" if one.met else "missed") if math.isfinite(one.bar) else ""
        table.add_row(one.name, *told, bar if verdict else one.unit, verdict)
    Console(width=120).print(table)


def machine() -> str:
    """The processor's name."""
    with open("/proc/cpuinfo") as info:
        names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
