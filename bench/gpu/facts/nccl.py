"""What sums between two GPUs cost in a step of decoding that is a CUDA graph, through PyTorch's NCCL.

A Llama of 1B shape, split in two, sums rows of 2,048 numbers twice a layer and once after the embedding. Here a
graph holds these 33 sums and nothing else, and says whether they are right when it is replayed.
"""

import os
import statistics

import torch
from saying import Fact
from torch import distributed, multiprocessing

HIDDEN, SUMS, REPEATS = 2048, 33, 50
ROWS = (1, 8, 32, 512)


def main() -> None:
    """One process a GPU."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    multiprocessing.spawn(measure, (torch.cuda.device_count(),), torch.cuda.device_count())


def measure(rank: int, ranks: int) -> None:
    """One rank."""
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl", rank=rank, world_size=ranks)
    fact = Fact(f"sums over {ranks} GPUs, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")
    for rows in ROWS:
        given = torch.full((rows, HIDDEN), 1.0 + rank, device="cuda", dtype=torch.float16)
        value = given.clone()
        for _ in range(3):
            distributed.all_reduce(value)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            value.copy_(given)
            for _ in range(SUMS):
                distributed.all_reduce(value)
                value.mul_(1 / ranks)
        times = []
        for _ in range(REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        wanted = (ranks + 1) / 2
        right = bool((value == wanted).all())
        taken = 1e3 * statistics.median(times)
        told = f"rank {rank}, {rows:3} rows: {SUMS} sums {taken:.0f} us, each {taken / SUMS:.1f} us"
        fact.check(told, right)
        # NCCL waits for graphs that hold its sums before it ends.
        del graph
    torch.cuda.synchronize()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
