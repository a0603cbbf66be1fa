"""What a build costs: its speed beside copying the checkpoint, and the memory at its peak.

Writes random bf16 Llamas of two depths, in shards, and builds each in a process of its own. Speed
is bytes of the checkpoint per second, over parse to serialize, beside `cp` of the same files with
the same fsync. Memory is the high-water mark of anonymous pages: pages of mapped files are the
kernel's to take back and would count the disk, not the builder. If it grows with the depth, the
builder does not stream. The bounds: half the speed of `cp`, 1.5 times the largest shard and 1 GiB
of memory, and 2 s for a second build that finds the first one's engine.

The defaults have the shape of Llama 3.2 1B, whole and at half its depth.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

MIB = 1 << 20
LAYERS_A_SHARD = 4


@dataclass(frozen=True)
class Width:
    """Everything of a Llama but its depth."""

    hidden: int
    intermediate: int
    kv: int
    vocab: int
    heads: int = 16


@dataclass(frozen=True)
class Result:
    """One build of one checkpoint."""

    layers: int
    checkpoint: int
    shard: int
    """Bytes of the largest file."""
    copy: float
    build: float
    validate: float
    again: float
    """Seconds of the second build, its process's start included."""
    peak: int

    @property
    def allowed(self) -> int:
        """Bytes of memory within the bound."""
        return self.shard * 3 // 2 + (1 << 30)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--directory", type=Path, help="where to work (default: a temporary one)")
    options = parser.parse_args()
    width = Width(options.hidden, options.hidden * 4, options.hidden // 4, options.vocab)
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        show([measure(Path(work), width, layers) for layers in options.layers])


def measure(work: Path, width: Width, layers: int) -> Result:
    """Write, copy and build one checkpoint."""
    checkpoint = work / f"llama-{layers}"
    write(checkpoint, width, layers)
    sizes = [file.stat().st_size for file in checkpoint.iterdir()]
    copied = copy(checkpoint, work / "copy")
    timings, peak = build(checkpoint, work)
    again = rebuild(checkpoint, work)
    shutil.rmtree(checkpoint)
    shutil.rmtree(work / "store")
    work_phases = sum(timings[name] for name in ("Parse", "Graph", "Optimize", "Serialize"))
    return Result(
        layers, sum(sizes), max(sizes), copied, work_phases, timings["Validate"], again, peak
    )


def write(directory: Path, width: Width, layers: int) -> None:
    """A random checkpoint with an index, `LAYERS_A_SHARD` layers a file."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    config = {
        "model_type": "llama",
        "hidden_size": width.hidden,
        "intermediate_size": width.intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": width.heads,
        "num_key_value_heads": width.heads * width.kv // width.hidden,
        "vocab_size": width.vocab,
        "tie_word_embeddings": True,
    }
    (directory / "config.json").write_text(json.dumps(config))
    index: dict[str, str] = {}
    shards = list(_shards(rng, width, layers))
    for number, tensors in enumerate(shards):
        name = f"model-{number + 1:05}.safetensors"
        save_file(tensors, directory / name)
        index |= dict.fromkeys(tensors, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


Tensors = dict[str, np.ndarray]


def _shards(rng: np.random.Generator, width: Width, layers: int) -> Iterator[Tensors]:
    def normal(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(shape[-1] ** -0.5)
        return values.astype(ml_dtypes.bfloat16)

    def ones() -> np.ndarray:
        return np.ones(width.hidden, ml_dtypes.bfloat16)

    hidden, wide = width.hidden, width.intermediate
    yield {"model.embed_tokens.weight": normal(width.vocab, hidden), "model.norm.weight": ones()}
    for first in range(0, layers, LAYERS_A_SHARD):
        shard: Tensors = {}
        for layer in range(first, min(first + LAYERS_A_SHARD, layers)):
            prefix = f"model.layers.{layer}"
            shard |= {
                f"{prefix}.input_layernorm.weight": ones(),
                f"{prefix}.post_attention_layernorm.weight": ones(),
                f"{prefix}.self_attn.q_proj.weight": normal(hidden, hidden),
                f"{prefix}.self_attn.k_proj.weight": normal(width.kv, hidden),
                f"{prefix}.self_attn.v_proj.weight": normal(width.kv, hidden),
                f"{prefix}.self_attn.o_proj.weight": normal(hidden, hidden),
                f"{prefix}.mlp.gate_proj.weight": normal(wide, hidden),
                f"{prefix}.mlp.up_proj.weight": normal(wide, hidden),
                f"{prefix}.mlp.down_proj.weight": normal(hidden, wide),
            }
        yield shard


def copy(source: Path, target: Path) -> float:
    """Seconds to copy the checkpoint and make it durable."""
    began = time.monotonic()
    shutil.copytree(source, target)
    for file in target.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    seconds = time.monotonic() - began
    shutil.rmtree(target)
    return seconds


def build(checkpoint: Path, work: Path) -> tuple[dict[str, float], int]:
    """Seconds by phase, and the peak of anonymous memory in bytes."""
    with (
        subprocess.Popen(_command(checkpoint, work), stderr=subprocess.DEVNULL) as process,
        _anonymous_peak(process.pid) as peak,
    ):
        if process.wait():
            raise SystemExit(f"the build of {checkpoint} failed")
    (manifest,) = (work / "store").glob("*/*/*/*/manifest.json")
    timings: dict[str, float] = json.loads(manifest.read_text())["timings"]
    return timings, peak[0]


def rebuild(checkpoint: Path, work: Path) -> float:
    """Seconds until a second build, with nothing changed, has found the engine."""
    began = time.monotonic()
    subprocess.run(_command(checkpoint, work), check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def _command(checkpoint: Path, work: Path) -> list[str]:
    script = "import sys; from pitcrew_builder.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "build", "--model", str(checkpoint)]
    places = ["--store", str(work / "store"), "--cache", str(work / "cache")]
    return [*command, *places, "--progress", "none"]


@contextmanager
def _anonymous_peak(pid: int) -> Iterator[list[int]]:
    """Watch a process's anonymous memory; the list holds the highest value seen."""
    highest = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            for line in _status(pid):
                if line.startswith("RssAnon:"):
                    highest[0] = max(highest[0], int(line.split()[1]) * 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        ended.set()
        thread.join()


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def show(results: list[Result]) -> None:
    """Print the table."""
    table = Table(title="Builds of random bf16 Llamas for the CPU target")
    titles = ("layers", "checkpoint", "copy", "build", "of copy speed", "validate", "again")
    for title in (*titles, "peak", "allowed"):
        table.add_column(title, justify="right")
    for result in results:
        table.add_row(
            str(result.layers),
            f"{result.checkpoint / MIB:,.0f} MiB",
            f"{result.copy:.2f} s",
            f"{result.build:.2f} s",
            f"{result.copy / result.build:.0%}",
            f"{result.validate:.2f} s",
            f"{result.again:.2f} s",
            f"{result.peak / MIB:,.0f} MiB",
            f"{result.allowed / MIB:,.0f} MiB",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
