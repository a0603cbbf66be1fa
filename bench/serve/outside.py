"""The same servers under the load of a client that is not ours: aiperf.

    python bench/serve/outside.py [--clients 8] [--repeats 2]

Prompts are aiperf's own texts, tokens are counted by the servers. It takes a good part of the cores
for itself, so compare the servers with each other and not with the other table.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import environments
import models
import rivals
from load import Shape
from report import machine
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Seen:
    """What aiperf reports of a run."""

    rate: float
    """Output tokens a second."""
    first: float
    """Median milliseconds to a first token."""
    length: float
    """Mean tokens of an answer."""
    failed: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    shape, model = Shape(128, 64), models.MODELS[1]
    found: dict[str, list[Seen]] = defaultdict(list)
    with ExitStack() as stack:
        servers = dict(opened(stack, model, shape, options.threads))
        for _ in range(options.repeats):
            for name, url in servers.items():
                found[name].append(aiperf(url, model, shape, options.clients))
    show(found, f"{model.name} {model.form}, {options.clients} clients by aiperf, {machine()}")


def opened(
    stack: ExitStack, model: models.Model, shape: Shape, threads: int
) -> Iterator[tuple[str, str]]:
    """The servers that could be started."""
    yield "pitcrew", stack.enter_context(rivals.pitcrew_server(model, threads))
    with contextlib.suppress(environments.Unavailable):
        server = rivals.llama_cpp_server(model, shape, threads)
        yield "llama-server", stack.enter_context(server)


def aiperf(url: str, model: models.Model, shape: Shape, clients: int) -> Seen:
    """Three requests of each client, after one that warms up."""
    with tempfile.TemporaryDirectory() as work:
        command = [environments.aiperf(), "profile", "--model", "bench", "--url", url]
        command += ["--endpoint-type", "completions", "--streaming", "--ui", "none"]
        command += ["--concurrency", clients, "--request-count", 3 * clients]
        command += ["--warmup-request-count", clients, "--random-seed", 1]
        command += ["--isl", shape.prompt, "--osl", shape.output, "--tokenizer", model.checkpoint]
        command += ["--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0"]
        # Of random texts a tokenizer makes more tokens than a model had to generate.
        command += ["--use-server-token-count", "--artifact-dir", work]
        run = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"aiperf failed: {run.stdout[-2000:]}")
        # Beside it lie reports of single phases, the warm-up among them.
        report = Path(work) / "profile_export_aiperf.json"
        return _read(json.loads(report.read_text()))


def _read(report: dict[str, dict[str, float]]) -> Seen:
    return Seen(
        report["output_token_throughput"]["avg"],
        report["time_to_first_token"]["p50"],
        report["output_sequence_length"]["avg"],
        int(report.get("error_request_count", {}).get("avg", 0)),
    )


def show(found: dict[str, list[Seen]], title: str) -> None:
    """Print the table."""
    table = Table("", "tokens/s", "first token ms", "tokens of an answer", "failed", title=title)
    for name, runs in found.items():
        values = (
            statistics.median(one.rate for one in runs),
            statistics.median(one.first for one in runs),
            statistics.median(one.length for one in runs),
            sum(one.failed for one in runs),
        )
        table.add_row(name, *(f"{value:.0f}" for value in values))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
