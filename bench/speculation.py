"""What guessing gains: tokens per second with and without n-grams, on the CPU, in one run.

The sample model continues verses greedily. Its texts soon repeat themselves, which is what n-grams
live from; a text that never does gains nothing. Each round takes the ways in turn, so that what the
machine does beside them falls on all alike; the table gives medians over the rounds.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scheduler import machine
from soak import build

from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.request import Request
from pitcrew_runtime.drafting import Method, Speculation
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.text.tokenizer import Tokenizer

VERSES = (
    "In the beginning God created the heaven and the earth.",
    "And the LORD said unto Moses,",
    "Now these are the generations of the sons of Noah,",
    "Blessed is the man that walketh not in the counsel of the ungodly,",
)
TOKENS = 192
CLIENTS = (1, 4, 16)
WAYS = {
    "without": None,
    "ngram, 2 tokens": Speculation(Method.NGRAM, 2),
    "ngram, 4 tokens": Speculation(Method.NGRAM, 4),
    "ngram, 8 tokens": Speculation(Method.NGRAM, 8),
}


@dataclass(frozen=True)
class Round:
    """One way, once."""

    tokens_per_second: float
    accepted: float
    """Part of the guesses."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", type=Path, help="default: one of tiny-kjv, built for this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        path = options.engine or build(Path(work))
        found: dict[tuple[str, int], list[Round]] = {}
        for _ in range(options.rounds):
            for clients in CLIENTS:
                for way, speculation in WAYS.items():
                    found.setdefault((way, clients), []).append(measure(path, speculation, clients))
    show(found)
    return 0


def measure(path: Path, speculation: Speculation | None, clients: int) -> Round:
    """Serve that many requests at once, after one that warms up."""
    directory = open_engine(path, 1)
    text = directory.file("tokenizer/tokenizer.json")
    assert text is not None
    tokenizer = Tokenizer.load(text.read_bytes(), b"{}")
    tuning = Tuning(speculation=speculation, prefix_cache=False, kv_memory=64 << 20)
    engine = assemble(directory, tuning)
    generate(engine, [tuple(tokenizer.encode(VERSES[0]))])
    prompts = [tuple(tokenizer.encode(VERSES[n % len(VERSES)])) for n in range(clients)]
    start = time.perf_counter()
    tokens = generate(engine, prompts)
    seconds = time.perf_counter() - start
    work = engine.gauges().work
    return Round(tokens / seconds, work.accepted / work.proposed if work.proposed else 0.0)


def generate(engine: Engine, prompts: list[tuple[int, ...]]) -> int:
    """Tokens that were generated."""
    for number, prompt in enumerate(prompts):
        engine.submit(Request(number, prompt, TOKENS, 0.0))
    tokens = 0
    while not engine.idle:
        tokens += sum(update.sampled is not None for update in engine.step(0.0).updates)
    return tokens


def show(found: dict[tuple[str, int], list[Round]]) -> None:
    """Print the table."""
    title = f"Greedy tokens per second, {machine()} (load {os.getloadavg()[0]:.1f})"
    table = Table(title=title, title_justify="left")
    for heading in ("way", "at once", "tokens/s", "least", "most", "of without", "accepted"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for (way, clients), rounds in found.items():
        rates = [one.tokens_per_second for one in rounds]
        ratios = [
            one.tokens_per_second / plain.tokens_per_second
            for one, plain in zip(rounds, found["without", clients], strict=True)
        ]
        table.add_row(
            way,
            str(clients),
            *(f"{value:.0f}" for value in (statistics.median(rates), min(rates), max(rates))),
            f"{statistics.median(ratios):.2f} ×",
            f"{rounds[0].accepted:.0%}" if rounds[0].accepted else "",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
