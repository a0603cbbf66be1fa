"""What slots for LoRA adapters cost: one network, built without them and with them.

Both engines run on one core, in turns, so that the machine's mood is shared. Figures are CPU time
of the process, medians of the repeats, and ratios to the engine without slots. Adapters are random
and change every linear map of every layer.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from build import Width, write
from rich.console import Console
from rich.table import Table

from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import BuildSpec, LocalSource, Lora, Shapes
from pitcrew_runtime.adapters.weights import LoraWeights, LowRank, Room
from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.request import Request
from pitcrew_runtime.engine_directory import EngineDirectory, open_engine

LAYERS = 4
VOCAB = 8192
LENGTH = 320
PROMPT, PREFILL, DECODED = 16, 256, 8
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Variant:
    """An engine, and the adapters that its requests take by turns; None for no adapter."""

    name: str
    engine: Engine
    adapters: tuple[LoraWeights | None, ...]


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-loras", type=int, default=4)
    parser.add_argument("--max-lora-rank", type=int, default=16)
    options = parser.parse_args()
    width = Width(options.hidden, 4 * options.hidden, options.hidden // 4, VOCAB)
    lora = Lora(max_adapters=options.max_loras, max_rank=options.max_lora_rank)
    with tempfile.TemporaryDirectory() as work:
        variants = list(prepare(Path(work), width, lora))
        shape = f"hidden {width.hidden}, {LAYERS} layers"
        title = f"{machine()}; {shape}, {lora.max_adapters} slots of rank {lora.max_rank}"
        show(title, variants, measure(variants, options.repeats))


def prepare(work: Path, width: Width, lora: Lora) -> Iterator[Variant]:
    """The network without slots, and with them in four ways of use."""
    write(work / "llama", width, LAYERS)
    plain, slotted = engine_of(work, None), engine_of(work, lora)
    yield Variant("without slots", opened(plain), (None,))
    engine, adapters = opened(slotted), random_adapters(slotted, lora)
    yield Variant("no adapter", engine, (None,))
    yield Variant("one adapter", engine, adapters[:1])
    yield Variant("all mixed", engine, (None, *adapters))


def engine_of(work: Path, lora: Lora | None) -> EngineDirectory:
    """Built from the checkpoint that lies there."""
    spec = BuildSpec(
        source=LocalSource(path=str(work / "llama"), name="llama"),
        shapes=Shapes(max_batch_size=max(BATCHES), max_sequence_length=LENGTH),
        lora=lora,
    )
    done = build(spec, Places(work / "store", work / "cache"), Tracker(lambda _: None))
    return open_engine(work / "store" / done.path, 1)


def opened(directory: EngineDirectory) -> Engine:
    """On one core, without memory of the runs before."""
    tuning = Tuning(threads=1, prefix_cache=False, max_step_tokens=PREFILL, kv_memory=1 << 28)
    return assemble(directory, tuning)


def random_adapters(directory: EngineDirectory, lora: Lora) -> tuple[LoraWeights, ...]:
    """One for every slot."""
    room = Room.of(directory.manifest)
    assert room is not None
    rng = np.random.default_rng(0)

    def change(outputs: int, inputs: int) -> LowRank:
        down = rng.standard_normal((lora.max_rank, inputs), dtype=np.float32)
        return LowRank(down, rng.standard_normal((outputs, lora.max_rank), dtype=np.float32))

    return tuple(
        LoraWeights.of({module: change(*shape) for module, shape in room.shapes.items()})
        for _ in range(lora.max_adapters)
    )


def measure(variants: list[Variant], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of a step by case, a figure for each variant."""
    cases: dict[str, Callable[[Variant], float]] = {f"prefill {PREFILL}": prefill}
    for batch in BATCHES:
        cases[f"decode {batch}"] = lambda variant, batch=batch: decode(variant, batch)  # type: ignore[misc]
    found: dict[str, list[float]] = {}
    for name, run in cases.items():
        for variant in variants:
            run(variant)
        rounds = [[run(variant) for variant in variants] for _ in range(repeats)]
        found[name] = [1e3 * statistics.median(column) for column in zip(*rounds, strict=True)]
    return found


def prefill(variant: Variant) -> float:
    """Seconds of the step that computes one long prompt."""
    submit(variant, 1, PREFILL, 1)
    return sum(steps(variant.engine))


def decode(variant: Variant, batch: int) -> float:
    """Seconds of the median step that computes one token of each sequence."""
    submit(variant, batch, PROMPT, DECODED)
    # The first steps compute prompts.
    return statistics.median(list(steps(variant.engine))[-DECODED // 2 :])


def submit(variant: Variant, batch: int, prompt: int, tokens: int) -> None:
    """Queue a batch whose requests take the variant's adapters by turns."""
    for number in range(batch):
        adapter = variant.adapters[number % len(variant.adapters)]
        words = tuple(1 + (number + place) % 1000 for place in range(prompt))
        variant.engine.submit(Request(number, words, tokens, 0.0, adapter=adapter))


def steps(engine: Engine) -> Iterator[float]:
    """CPU seconds of each step until nothing is left to do."""
    while not engine.idle:
        started = time.process_time()
        engine.step(0.0)
        yield time.process_time() - started


def show(title: str, variants: list[Variant], found: dict[str, list[float]]) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left")
    table.add_column("ms a step")
    for variant in variants:
        table.add_column(variant.name, justify="right")
    for case, (base, *others) in found.items():
        table.add_row(case, f"{base:.2f}", *(f"{one:.2f} ({one / base:.2f}x)" for one in others))
    Console().print(table)


def machine() -> str:
    """What this runs on."""
    with Path("/proc/cpuinfo").open() as info:
        names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    model = names[0] if names else platform.machine()
    return f"{model}, 1 of {os.cpu_count()} CPUs, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
