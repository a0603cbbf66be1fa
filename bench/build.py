"""What a build costs: its speed beside copying the checkpoint, and the memory at its peak.

Writes random Llamas of two depths, in shards, and builds each in a process of its own, several
times, each time after copying the same files. Speed is bytes of the checkpoint per second. Beside a
plain copy stand parse to serialize, which end in the page cache as the copy does; beside a copy with
an fsync of every file stand the same phases and the publishing, which makes the engine durable and
finds that done which the disk wrote while the engine was proven. An engine has the bytes of its checkpoint,
each of them hashed; the copy hashes none.

Memory is the high-water mark of anonymous pages: pages of mapped files are the kernel's to take back
and would count the disk, not the builder. If it grows with the depth, the builder does not stream.
The bounds: half the speed of `cp`, 1.5 times the largest shard and 1 GiB of memory, and 2 s for a
second build that finds the first one's engine.

Every step begins with the checkpoint in the page cache and with free memory filled by cached pages,
as on a machine that has run for a while. The memory that a virtual machine's host took back, and
gives again on first touch, costs seconds for each GiB, and would be what is measured.

The defaults have the shape of Llama 3.2 1B, whole and at half its depth. With `--dtype f32` the engine has as
many bytes as its checkpoint too, and no halves to widen for the proof.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
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
DTYPES = {"bf16": ml_dtypes.bfloat16, "f32": np.float32}


@dataclass(frozen=True)
class Width:
    """Everything of a Llama but its depth."""

    hidden: int
    intermediate: int
    kv: int
    vocab: int
    heads: int = 16
    dtype: str = "bf16"


@dataclass(frozen=True)
class Result:
    """One build of one checkpoint."""

    layers: int
    checkpoint: int
    shard: int
    """Bytes of the largest file."""
    copy: float
    durable: float
    """Seconds of a copy that was synced."""
    resolve: float
    build: float
    validate: float
    publish: float
    clean: float
    """Seconds from the publishing to the end of the process: the scratch of the proof is removed."""
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
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16", help="of the checkpoint")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to work (default: a temporary one)")
    options = parser.parse_args()
    hidden, dtype = options.hidden, options.dtype
    width = Width(hidden, hidden * 4, hidden // 4, options.vocab, dtype=dtype)
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        memory = Memory(Path(work) / "hole")
        for layers in options.layers:
            checkpoint = Path(work) / f"llama-{layers}"
            write(checkpoint, width, layers)
            results = [measure(checkpoint, layers, memory) for _ in range(options.repeats)]
            shutil.rmtree(checkpoint)
            show(results, dtype)


def measure(checkpoint: Path, layers: int, memory: "Memory") -> Result:
    """Copy and build one checkpoint."""
    sizes = [file.stat().st_size for file in checkpoint.iterdir()]
    work = checkpoint.parent / "work"
    copied = []
    for durable in (False, True):
        memory.fill()
        copied.append(copy(checkpoint, work, durable=durable))
    memory.fill()
    timings, peak = build(checkpoint, work)
    again = rebuild(checkpoint, work)
    shutil.rmtree(work)
    return Result(
        layers,
        sum(sizes),
        max(sizes),
        *copied,
        timings["Resolve"],
        sum(timings[name] for name in ("Parse", "Graph", "Optimize", "Serialize")),
        timings["Validate"],
        timings["Publish"],
        timings["Clean"],
        again,
        peak,
    )


class Memory:
    """Free memory, filled with pages of a hole in a file."""

    def __init__(self, hole: Path) -> None:
        self._hole = hole
        self._end = 0

    def fill(self) -> None:
        """Leave half a GiB free; nothing that is cached has to go."""
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemFree:"))
        begin, self._end = self._end, self._end + max(0, free - (1 << 29))
        self._hole.touch()
        os.truncate(self._hole, self._end)
        block = bytearray(MIB)
        with self._hole.open("rb", buffering=0) as stream:
            stream.seek(begin)
            while stream.readinto(block):
                pass


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
        "dtype": {"bf16": "bfloat16", "f32": "float32"}[width.dtype],
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
        return values.astype(DTYPES[width.dtype], copy=False)

    def ones() -> np.ndarray:
        return np.ones(width.hidden, DTYPES[width.dtype])

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


def copy(source: Path, target: Path, *, durable: bool) -> float:
    """Seconds to copy the checkpoint."""
    began = time.monotonic()
    shutil.copytree(source, target)
    for file in target.iterdir() if durable else ():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    seconds = time.monotonic() - began
    shutil.rmtree(target)
    return seconds


def build(checkpoint: Path, work: Path) -> tuple[dict[str, float], int]:
    """Seconds by phase, and the peak of anonymous memory in bytes."""
    command = [*_command(checkpoint, work), "--progress", "json"]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with (
        subprocess.Popen(command, text=True, stdout=pipe, stderr=quiet) as process,
        _anonymous_peak(process.pid) as peak,
    ):
        assert process.stdout is not None
        began: dict[str, float] = {}
        for line in process.stdout:
            told = time.monotonic()
            began.setdefault(json.loads(line)["phase"], told)
        if process.wait():
            raise SystemExit(f"the build of {checkpoint} failed")
        ended = time.monotonic()
    (manifest,) = (work / "store").glob("*/*/*/*/manifest.json")
    timings: dict[str, float] = json.loads(manifest.read_text())["timings"]
    # The manifest is written before it is published.
    return timings | {"Publish": told - began["Publish"], "Clean": ended - told}, peak[0]


def rebuild(checkpoint: Path, work: Path) -> float:
    """Seconds until a second build, with nothing changed, has found the engine."""
    began = time.monotonic()
    command = [*_command(checkpoint, work), "--progress", "none"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def _command(checkpoint: Path, work: Path) -> list[str]:
    script = "import sys; from pitcrew_builder.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "build", "--model", str(checkpoint)]
    places = ["--store", str(work / "store"), "--cache", str(work / "cache")]
    return [*command, *places]


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


def show(results: list[Result], dtype: str) -> None:
    """Print the medians of one checkpoint's builds."""

    def median(read: Callable[[Result], float]) -> float:
        return statistics.median(map(read, results))

    first = results[0]
    table = Table("medians of the repeats", f"{first.layers} layers")
    rows = {
        "checkpoint": f"{first.checkpoint / MIB:,.0f} MiB",
        "copy, plain": f"{median(lambda r: r.copy):.2f} s",
        "copy, durable": f"{median(lambda r: r.durable):.2f} s",
        "resolve: hash the checkpoint": f"{median(lambda r: r.resolve):.2f} s",
        "parse, graph, optimize, serialize": f"{median(lambda r: r.build):.2f} s",
        "of the plain copy's speed": f"{median(lambda r: r.copy / r.build):.0%}",
        "validate": f"{median(lambda r: r.validate):.2f} s",
        "publish: wait for the disk": f"{median(lambda r: r.publish):.2f} s",
        "remove the proof's scratch": f"{median(lambda r: r.clean):.2f} s",
        "of the durable copy's speed": f"{median(lambda r: r.durable / (r.build + r.publish)):.0%}",
        "second build": f"{median(lambda r: r.again):.2f} s",
        "peak of memory": f"{max(r.peak for r in results) / MIB:,.0f} MiB",
        "allowed": f"{first.allowed / MIB:,.0f} MiB",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console()
    console.print(
        f"{len(results)} builds of a random {dtype} Llama for the CPU target on {machine()}"
    )
    console.print(table)


def machine() -> str:
    """Processor, kernel and load, for the table's heading."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = os.getloadavg()[1]
    return (
        f"{len(os.sched_getaffinity(0))} x {models[0] if models else platform.machine()}, "
        f"Linux {platform.release()}, load {load:.1f} in the last five minutes"
    )


if __name__ == "__main__":
    main()
