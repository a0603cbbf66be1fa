"""What sums between two GPUs cost in a step of decoding that is a CUDA graph, through PyTorch's NCCL.

A Llama of 1B shape, split in two, sums rows of 2,048 numbers twice a layer and once after the embedding. Here a
graph holds these 33 sums and nothing else, and says whether they are right when it is replayed.
"""

import os

import torch
from saying import Fact
from torch import distributed, multiprocessing
from torch_replay import replayed

HIDDEN, SUMS = 2048, 33
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

        def sums(value: torch.Tensor = value, given: torch.Tensor = given) -> None:
            value.copy_(given)
            for _ in range(SUMS):
                distributed.all_reduce(value)
                value.mul_(1 / ranks)

        # The graph is gone when it has been timed: NCCL waits for those that hold its sums.
        taken = 1e3 * replayed(sums)
        wanted = (ranks + 1) / 2
        right = bool((value == wanted).all())
        told = f"rank {rank}, {rows:3} rows: {SUMS} sums {taken:.0f} us, each {taken / SUMS:.1f} us"
        fact.check(told, right)
    torch.cuda.synchronize()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
