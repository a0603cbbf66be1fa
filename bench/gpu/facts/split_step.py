"""Where the time of a step of decoding goes that is split over two GPUs: plans, exchanges, and messages.

`serving.py` runs it for its engines. The ranks are opened in threads of this process, each on a GPU, and
their CUDA graphs replayed, as they are and without exchanges; what a step takes in a server beyond that is messages
and the host. The kernels of a step are those that the plans tell of.
"""

import argparse
import statistics
import threading
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda
from saying import Fact

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.assembly import Tuning, limits_for
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.execution.collective import Group
from pitcrew_runtime.execution.gpu.device import Gpu
from pitcrew_runtime.execution.gpu.nccl import Nccl, load_nccl
from pitcrew_runtime.execution.gpu.network import PlanNetwork
from pitcrew_runtime.execution.gpu.opening import Seat, open_plan, open_rank
from pitcrew_runtime.execution.gpu.shapes import Shape, nobodys
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.ranks.part import pool_shape
from pitcrew_runtime.ranks.wiring import exchange_groups

REPEATS, PAGES = 50, 2048
SHAPES = [Shape(batch, 1, 64, 1) for batch in (1, 8, 32)]


class Threads:
    """A collective of threads, by which ranks find each other."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks)
        self.given: dict[int, np.ndarray[Any, Any]] = {}

    def of(self, rank: int) -> "Threads.One":
        """One thread's."""
        return self.One(self, rank)

    class One:
        """As one rank sees it."""

        def __init__(self, all_: "Threads", rank: int) -> None:
            self._all, self._rank = all_, rank

        def exchange(self, what: object, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            """The sum."""
            self._all.given[self._rank] = value
            self._all.barrier.wait()
            total = sum(self._all.given.values())
            self._all.barrier.wait()
            return total


class Silent(Nccl):
    """Exchanges nothing, if told so."""

    silent = False

    def sum(self, group: Group, given: int, result: int, count: int, kind: str) -> None:
        """Or not."""
        if not self.silent:
            super().sum(group, given, result, count, kind)

    def gather(
        self, group: Group, given: int, result: int, size: tuple[int, int], kind: str
    ) -> None:
        """Or not."""
        if not self.silent:
            super().gather(group, given, result, size, kind)


def main() -> None:
    """A line for each batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    directory = open_engine(parser.parse_args().engine, None)
    manifest = directory.manifest
    fact = Fact(f"a step of decoding, {manifest.world_size} GPU(s)")
    plan = manifest.ranks[0].plan
    assert plan is not None
    fact.say("plans of a rank", len(manifest.ranks[0].segments) or 1)
    kernels = [block.kernels[1] for block in plan.blocks if len(block.kernels) > 1]
    fact.say(
        "kernels of a step, of the most in a block", f"{sum(kernels)}, {max(kernels, default=0)}"
    )
    found: dict[int, list[str]] = {}
    threads = Threads(manifest.world_size)
    work = [
        threading.Thread(target=rank_of, args=(directory.root, manifest, rank, threads, found))
        for rank in range(manifest.world_size)
    ]
    for each in work:
        each.start()
    for each in work:
        each.join()
    for told in found.get(0, []):
        fact.say("rank 0", told)
    fact.end()


def rank_of(
    root: Path, manifest: Manifest, rank: int, threads: Threads, found: dict[int, list[str]]
) -> None:
    """One thread."""
    limits, split = limits_for(manifest, Tuning()), manifest.world_size > 1
    nccl: list[Silent] = []

    def meet(gpu: Gpu, scratch: int) -> Silent:
        groups, collective = exchange_groups(manifest.ranks), threads.of(rank)
        nccl.append(Silent(load_nccl(), gpu, rank, groups, collective, scratch))
        return nccl[0]

    if split:
        pool = pool_shape(manifest, rank, PAGES)
        opened = open_rank(
            root, rank, manifest, limits, pool, Seat(rank, manifest.world_size, meet)
        )
    else:
        model = manifest.model
        page = manifest.identity.shapes.kv_page_size
        pool = PoolShape(model.layers, PAGES, page, model.kv_heads, model.head_dim, "float16")
        opened = open_plan(root / manifest.ranks[0].whole, manifest, limits, pool)
    network = PlanNetwork(
        opened.gpu, opened.kernels, opened.plan, opened.scratch, opened.bounds, pool
    )
    told = []
    for shape in SHAPES:
        whole = replayed(opened.gpu, network, shape, threads)
        line = f"batch {shape.batch:2}: {1e3 * whole:.0f} us"
        if split:
            nccl[0].silent = True
            network._graphs.clear()
            line += (
                f", without exchanges {1e3 * replayed(opened.gpu, network, shape, threads):.0f} us"
            )
            nccl[0].silent = False
            network._graphs.clear()
        told.append(line)
    found[rank] = told


def replayed(gpu: Gpu, network: PlanNetwork, shape: Shape, threads: Threads) -> float:
    """Median milliseconds of a replay, which all ranks do at once."""
    network.likeliest(nobodys(shape, network.page_size))
    graph = network._graphs.get(shape)
    assert graph is not None
    times = []
    begin, end = (cuda.cudaEventCreate()[1] for _ in range(2))
    for _ in range(REPEATS):
        threads.barrier.wait()
        cuda.cudaEventRecord(begin, gpu.stream)
        gpu.replay(graph)
        cuda.cudaEventRecord(end, gpu.stream)
        gpu.wait()
        times.append(cuda.cudaEventElapsedTime(begin, end)[1])
    return statistics.median(times)


if __name__ == "__main__":
    main()
