"""What a decoding step costs with pages and with contexts, in CPU time of all threads.

    python bench/serve/contexts.py [--tokens 160] [--steps 12]

The same rows go through both forms of an engine's graph, step by step in turn. CPU time does not
count a neighbour's turns on the cores, though it grows with what neighbours take of the caches.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from models import MODELS, Model, engine
from report import machine
from rich.console import Console
from rich.table import Table

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.request import GREEDY
from pitcrew_runtime.engine_directory import EngineDirectory, open_engine
from pitcrew_runtime.execution.contiguous_network import ContiguousNetwork
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.network import Network
from pitcrew_runtime.execution.onnx_network import OnnxNetwork, Segment
from pitcrew_runtime.execution.packing import pack
from pitcrew_runtime.execution.program import open_session

ROWS = (1, 8, 32)
UNCOUNTED = 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, default=160, help="in each context at the beginning")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    table = Table("model", "rows", "pages, ms", "contexts, ms", "pages / contexts", title_justify="left",
                  title=f"CPU time of a decoding step, {options.tokens} tokens of context, {machine()}, "
                  f"{options.threads} threads, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    for model in MODELS:
        networks = opened(model, options.threads, options.tokens + options.steps + UNCOUNTED)
        for rows in ROWS:
            pages, contexts = step_times(networks, rows, options.tokens, options.steps)
            ratio = statistics.median(a / b for a, b in zip(pages, contexts, strict=True))
            told = (f"{statistics.median(times) * 1e3:.1f}" for times in (pages, contexts))
            table.add_row(f"{model.name} {model.form}", str(rows), *told, f"{ratio:.2f} ×")
    Console(width=120).print(table)


def opened(model: Model, threads: int, longest: int) -> Sequence[Network]:
    """Both forms of an engine."""
    directory: EngineDirectory = open_engine(engine(model), 1)
    rank, shape = directory.manifest.ranks[0], pool_shape(directory.manifest, longest)
    assert rank.contiguous is not None
    sessions = [
        open_session(directory.root / name, threads) for name in (rank.graph, rank.contiguous)
    ]
    return (
        OnnxNetwork([Segment(sessions[0])], shape),
        ContiguousNetwork(sessions[1], sessions[1], shape, 2 * shape.nbytes),
    )


def pool_shape(manifest: Manifest, longest: int) -> PoolShape:
    """Room for the most rows."""
    facts, page = manifest.model, manifest.identity.shapes.kv_page_size
    return PoolShape(
        layers=facts.layers,
        pages=max(ROWS) * -(-longest // page),
        page_size=page,
        kv_heads=facts.kv_heads,
        head_dim=facts.head_dim,
        kv_dtype=manifest.ranks[0].kv_dtype,
    )


def step_times(
    networks: Sequence[Network], rows: int, tokens: int, steps: int
) -> list[list[float]]:
    """Seconds of CPU of each step, by network."""
    found: dict[int, list[float]] = defaultdict(list)
    histories = [[0] for _ in range(rows)]
    pages = np.arange(networks[0].pages).reshape(max(ROWS), -1)
    for step in range(UNCOUNTED + steps):
        batch = [
            Row(row, (3,), tokens + step, pages[row].tolist(), GREEDY, histories[row])
            for row in range(rows)
        ]
        packed = pack(batch, networks[0].page_size)
        for index, network in enumerate(networks):
            begin = time.process_time()
            network.run(packed)
            found[index].append(time.process_time() - begin)
    return [times[UNCOUNTED:] for times in found.values()]


if __name__ == "__main__":
    main()
