"""What a build with another quantization finds ready of the one before it.

Builds a random Llama with blocks of Llama 3.2 1B to int8, then to int4 with the same cache, and to int4
with an empty one, in turn and in processes of their own. The cache holds the checkpoint's digests and
the last checkpoint's unquantized network, which calibration observes and the proof compares with.
Seconds are those of the manifest, from the beginning to the codes. What is observed, and the codes,
depend on the recipe and are made anew: they are what is left.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from build import Width, machine
from plan import sample_checkpoint, sample_prompts
from rich.console import Console
from rich.table import Table

Timings: TypeAlias = Mapping[str, float]
"""Seconds by phase."""

ROWS: Mapping[str, tuple[str, ...]] = {
    "resolve: hash the checkpoint": ("Resolve",),
    "parse, graph, optimize": ("Parse", "Graph", "Optimize"),
    "quantize: unquantized network, observing, codes": ("Quantize",),
    "all of them": ("Resolve", "Parse", "Graph", "Optimize", "Quantize"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--method", default="round", help="of the int4 weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to work (default: a temporary one)")
    options = parser.parse_args()
    hidden = options.hidden
    width = Width(hidden, 4 * hidden, hidden // 4, 2048, heads=hidden // 64)
    with tempfile.TemporaryDirectory(dir=options.directory) as temporary:
        work = Path(temporary)
        checkpoint = sample_checkpoint(work, width, options.layers)
        given = ["--model", str(checkpoint), "--calibration", str(sample_prompts(work))]
        # Few shapes to prove: what comes after the codes is not measured.
        given += ["--max-batch-size", "1", "--max-sequence-length", "512"]
        int8 = [*given, "--weights", "int8"]
        int4 = [*given, "--weights", "int4", "--method", options.method]
        seen = [measure(int8, int4, work) for _ in range(options.repeats)]
    console = Console()
    console.print(
        f"{options.repeats} times, a random Llama, {options.layers} layers, hidden {hidden}, "
        f"on {machine()}"
    )
    console.print(table(seen, options.method))


def measure(int8: list[str], int4: list[str], work: Path) -> tuple[Timings, Timings, Timings]:
    """The first build, the second with its cache, and the second with an empty one."""
    kept, empty = work / "kept", work / "empty"
    taken = (build(int8, kept), build(int4, kept), build(int4, empty))
    for place in (kept, empty):
        shutil.rmtree(place)
    return taken


def build(given: list[str], place: Path) -> Timings:
    """Seconds by phase of one build, whose engine is removed."""
    script = "import sys; from pitcrew_builder.cli import main; sys.exit(main())"
    store = place / "store"
    where = ["--store", str(store), "--cache", str(place / "cache"), "--progress", "none"]
    command = [sys.executable, "-c", script, "build", *given, *where]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    (manifest,) = store.glob("*/*/*/*/manifest.json")
    timings: Timings = json.loads(manifest.read_text())["timings"]
    shutil.rmtree(store)
    return timings


def table(seen: Sequence[tuple[Timings, Timings, Timings]], method: str) -> Table:
    """Medians of the repeats, and of their ratios."""
    second = f"int4 {method}"
    drawn = Table(
        "medians of the repeats",
        "int8, first",
        f"then {second}",
        f"{second}, first",
        "then / first",
    )
    for name, phases in ROWS.items():
        first, then, anew = (
            [sum(builds[number][phase] for phase in phases) for builds in seen]
            for number in range(3)
        )
        seconds = (f"{statistics.median(each):.2f} s" for each in (first, then, anew))
        ratios = (one / other for one, other in zip(then, anew, strict=True))
        drawn.add_row(name, *seconds, f"{statistics.median(ratios):.2f}")
    return drawn


if __name__ == "__main__":
    main()
