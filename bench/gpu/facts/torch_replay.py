"""The time of work of PyTorch as a replayed CUDA graph."""

import statistics
from collections.abc import Callable

import torch

WARM, REPEATS = 3, 50


@torch.no_grad()
def replayed(run: Callable[[], object]) -> float:
    """The median of milliseconds of a replay. What the last one computed stays where the graph put it."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
