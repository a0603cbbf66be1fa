"""What the planner predicts beside what a build takes: bytes on disk, memory, seconds, activations.

Builds a random Llama with blocks of Llama 3.2 1B for each target and format, in processes of their own,
and watches each from outside: the most bytes that lie on the volume at once, and the most anonymous
memory. Activations are what ONNX Runtime's arena takes beyond the weights for one prefill step of as
many tokens as the plan counts with; on a GPU they were not measured.

Sizes on disk are computed and have to agree. Memory and seconds are estimates: a ratio between a half
and two is what they are good for.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from build import MIB, Width, machine, write
from rich.console import Console
from rich.table import Table

SAMPLE = Path(__file__).parents[1] / "samples" / "models" / "tiny-kjv"
PROMPTS, CHARACTERS = 10, 300
CPU, RTX = ("--target", "onnxruntime-cpu"), ("--target", "tensorrt-rtx")
HALF = (*RTX, "--precision", "fp16", "--compute-capability", "sm89")


@dataclass(frozen=True)
class Case:
    """One spec."""

    name: str
    flags: tuple[str, ...]
    weights: str | None = None


CASES = (
    Case("CPU fp32", CPU),
    Case("CPU int8", CPU, "int8"),
    Case("CPU int4 round", (*CPU, "--method", "round"), "int4"),
    Case("RTX fp16", HALF),
    Case("RTX fp16, int8", HALF, "int8"),
)


@dataclass
class Peak:
    """The highest values seen of a running build."""

    disk: int = 0
    memory: int = 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--only", default="", help="part of the names of the cases to run")
    options = parser.parse_args()
    hidden = options.hidden
    width = Width(hidden, 4 * hidden, hidden // 4, 2048, heads=hidden // 64)
    table = Table("", "what", "predicted", "measured", "predicted / measured")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        checkpoint = sample_checkpoint(work, width, options.layers)
        prompts = sample_prompts(work)
        for case in (case for case in CASES if options.only in case.name):
            for name, predicted, measured, unit in _rows(case, checkpoint, prompts, work):
                figures = (f"{value:,.4g} {unit}" for value in (predicted, measured))
                table.add_row(case.name, name, *figures, f"{predicted / measured:.2f}")
            table.add_section()
    console = Console()
    console.print(f"A random Llama, {options.layers} layers, hidden {hidden}, on {machine()}")
    console.print(table)


def sample_checkpoint(work: Path, width: Width, layers: int) -> Path:
    """Random weights with the sample model's tokenizer, whose vocabulary it has."""
    checkpoint = work / "llama"
    write(checkpoint, width, layers)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SAMPLE / name, checkpoint)
    return checkpoint


def sample_prompts(work: Path) -> Path:
    """Passages of the sample model's held-out text, as a file of prompts."""
    text = (SAMPLE / "heldout-text.txt").read_text()
    pieces = (text[i * CHARACTERS : (i + 1) * CHARACTERS] for i in range(PROMPTS))
    file = work / "prompts.jsonl"
    file.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    return file


def _rows(
    case: Case, checkpoint: Path, prompts: Path, work: Path
) -> Iterator[tuple[str, float, float, str]]:
    narrow = ("--weights", case.weights) if case.weights else ()
    given = ["--model", str(checkpoint), *case.flags, *narrow]
    planned = json.loads(_run("plan", *given, "--json"))
    if case.weights:
        given += ["--calibration", str(prompts)]
    place = work / "place"
    began = time.monotonic()
    peak = _build(given, place)
    seconds = time.monotonic() - began
    (file,) = (place / "store").glob("*/*/*/*/manifest.json")
    manifest = json.loads(file.read_text())
    files = [each for each in manifest["files"] if not each["path"].startswith("tokenizer/")]
    (rank,) = planned["ranks"]
    engine = sum(each["size"] for each in files)
    yield "engine on disk", planned["engineDiskBytes"] / MIB, engine / MIB, "MiB"
    yield "volume while building", planned["buildDiskBytes"] / MIB, peak.disk / MIB, "MiB"
    yield "memory while building", planned["buildRamBytes"] / MIB, peak.memory / MIB, "MiB"
    yield "seconds", planned["buildSeconds"], seconds, "s"
    if case.flags == CPU:
        taken = int(_python(_STEP, str(file.parent)))
        yield "activations", rank["activationBytes"] / MIB, taken / MIB, "MiB"
    shutil.rmtree(place)


def _build(given: list[str], place: Path) -> Peak:
    where = ["--store", str(place / "store"), "--cache", str(place / "cache")]
    command = [*_command(), "build", *given, *where, "--progress", "none"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        _watched(process.pid, place) as peak,
    ):
        _, told = process.communicate()
    if process.returncode:
        raise SystemExit(told)
    return peak


@contextmanager
def _watched(pid: int, place: Path) -> Iterator[Peak]:
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak.memory = max(peak.memory, _anonymous(pid))
            peak.disk = max(peak.disk, _volume(place))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)


def _volume(place: Path) -> int:
    """Bytes of all files, those with two names once."""
    found: dict[int, int] = {}
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            found[status.st_ino] = status.st_size
    return sum(found.values())


_STEP = """if True:
    import sys
    from pathlib import Path
    from plan import prefill
    print(prefill(Path(sys.argv[1])))
"""


def prefill(root: Path) -> int:
    """Bytes that the first prefill step of a CPU engine adds to the process's peak."""
    from pitcrew_builder.manifest import Manifest
    from pitcrew_builder.network import open_network
    from pitcrew_builder.plan.predict import PREFILL_CHUNK
    from pitcrew_builder.pools import Pools

    manifest = Manifest.model_validate_json((root / "manifest.json").read_text())
    shapes, (rank,) = manifest.identity.shapes, manifest.ranks
    network = open_network([(root, rank)])
    longest, page = shapes.max_sequence_length, shapes.kv_page_size
    new = min(PREFILL_CHUNK, longest)
    pools = Pools(manifest.model, network.pool_dtype, longest // page, page)
    for pool in pools.arrays.values():
        pool.fill(0)
    before = _anonymous(os.getpid())
    with _watched(os.getpid(), root) as peak:
        network.run(_inputs(new, longest - new, longest // page) | pools.arrays)
    return peak.memory - before


def _inputs(new: int, cached: int, pages: int) -> Mapping[str, Any]:
    return {
        "input_ids": np.zeros((1, new), np.int64),
        "positions": np.arange(cached, cached + new, dtype=np.int64)[None],
        "block_tables": np.arange(pages, dtype=np.int64)[None],
        "context_lengths": np.array([cached], np.int64),
        "logit_indices": np.array([[new - 1]], np.int64),
    }


def _command() -> list[str]:
    script = "import sys; from pitcrew_builder.cli import main; sys.exit(main())"
    return [sys.executable, "-c", script]


def _run(*arguments: str) -> str:
    done = subprocess.run([*_command(), *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def _python(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    here = str(Path(__file__).parent)
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": here}
    ).stdout


if __name__ == "__main__":
    main()
