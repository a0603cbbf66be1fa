"""What a Llama of 1B shape costs when it is served: the runtime's engine in process, then over HTTP.

N clients at once with prompts of 512 random tokens and answers of 128, greedy. In process, a step of decoding
is told beside the time in which the network ran in it: the rest is the host's alone, in which the GPU waits. PyTorch's
loop in a CUDA graph, without scheduler or sampling, is the yardstick (`torch_llama.py`).
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import LEVEL
from saying import Fact
from speed import CONFIG, PAGE, write

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parents[2] / "serve")]
from load import Shape, clients_at_once

from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.request import Request
from pitcrew_runtime.engine_directory import open_engine
from tests.integration.builder.plans import Workshop
from tests.integration.runtime.servers import serving

PROMPT, ANSWER, LENGTH, CHUNK = 512, 128, 1024, 512
CLIENTS = (1, 8, 32)
ROUNDS = 3


def main() -> None:
    """Build, and time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--tensor-parallel", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    fact = Fact(f"serving, {options.precision}, prompts of {PROMPT}, answers of {ANSWER}")
    for ranks in options.tensor_parallel:
        measure(fact, options.precision, ranks)
    if find_spec("torch"):
        from torch_llama import yardstick

        yardstick(fact, CONFIG, options.precision, CLIENTS, [PROMPT + ANSWER // 2])
    fact.end()


def measure(fact: Fact, precision: str, ranks: int) -> None:
    """One engine, over so many GPUs."""
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        path = built(Path(work), precision, ranks)
        taken = time.perf_counter() - start
        fact.say("built by pitcrew-build", f"{taken:.0f} s, for {ranks} GPU(s)")
        # A process of its own, as the memory of a GPU goes back with it.
        subprocess.run([sys.executable, __file__, "--in-process", str(path)], check=True)
        step = Path(__file__).with_name("split_step.py")
        subprocess.run([sys.executable, step, str(path)], check=True)
        with serving(path, Path(work), "--world-size", str(ranks), name="bench") as server:
            for clients in CLIENTS:
                over_http(fact, server.url, clients)
            said = (
                "pitcrew_step_host_gap_seconds_",
                "pitcrew_network_",
                "pitcrew_padding_positions_",
            )
            for line in server.get("/metrics").text.splitlines():
                if line.startswith(said) and "bucket" not in line and "created" not in line:
                    fact.say("metric", line)


def built(work: Path, precision: str, ranks: int) -> Path:
    """A published engine of random weights."""
    spec = {
        "target": "tensorrt",
        "precision": precision,
        "parallelism": {"tensor": ranks},
        "shapes": {"maxBatchSize": max(CLIENTS), "maxSequenceLength": LENGTH, "kvPageSize": PAGE},
        "tensorrt": {
            "computeCapability": "sm90",
            "optimizationLevel": LEVEL,
            "prefillChunk": CHUNK,
            "attention": "kernel",
            "products": "kernel",
        },
    }
    checkpoint = write(work / "llama", CONFIG | {"max_position_embeddings": LENGTH})
    path, _ = Workshop(work).publish(checkpoint, **spec)
    return path


def over_http(fact: Fact, url: str, clients: int) -> None:
    """Medians of rounds; the first, in which shapes are new, is left out."""
    shape = Shape(PROMPT, ANSWER)
    rounds = [
        clients_at_once(url, shape.prompts(clients, seed), ANSWER, {"return_token_ids": True})
        for seed in range(100 * clients, 100 * clients + 1 + ROUNDS)
    ][1:]
    for each in rounds:
        each.check(shape)
    rate = statistics.median(each.rate for each in rounds)
    first = statistics.median(each.first for each in rounds)
    fact.say(
        f"over HTTP, {clients:2} clients", f"{rate:.0f} tokens/s, first token {1e3 * first:.0f} ms"
    )


def in_process(path: Path) -> None:
    """Rounds of requests through the scheduler and the executor alone."""
    start = time.perf_counter()
    engine = assemble(open_engine(path, None), Tuning())
    pages = engine.gauges().pages_total
    print(f"   opened: {time.perf_counter() - start:.1f} s, {pages} pages of {PAGE}", flush=True)
    ids = itertools.count(1)
    for clients in CLIENTS:
        rates, firsts, steps = [], [], []
        for seed in range(1 + ROUNDS):
            rate, first, taken = round_of(engine, ids, Shape(PROMPT, ANSWER).prompts(clients, seed))
            if seed:
                rates.append(rate)
                firsts.append(first)
                steps += taken
        whole, network = np.median(np.array(steps), axis=0) * 1e3
        print(
            f"   in process, {clients:2} requests: {statistics.median(rates):.0f} tokens/s, first token "
            f"{1e3 * statistics.median(firsts):.0f} ms; a step of decoding {whole:.3f} ms, of which the "
            f"host alone {1e3 * (whole - network):.0f} us; {clients / whole * 1e3:.0f} tokens/s",
            flush=True,
        )
    engine.close()


def round_of(
    engine: Engine, ids: "itertools.count[int]", prompts: list[list[int]]
) -> tuple[float, float, list[tuple[float, float]]]:
    """Tokens a second, the median first token's seconds, and (whole, network) of every step of decoding."""
    started = time.perf_counter()
    now = time.monotonic()
    engine.submit(*(Request(next(ids), tuple(prompt), ANSWER, now) for prompt in prompts))
    firsts: dict[int, float] = {}
    steps, tokens = [], 0
    while not engine.idle:
        begin = time.perf_counter()
        report = engine.step(time.monotonic())
        end = time.perf_counter()
        for update in report.updates:
            firsts.setdefault(update.request_id, end - started)
            tokens += update.sampled is not None
        if report.tokens == report.rows == len(prompts):
            steps.append((end - begin, report.computing_seconds))
    return tokens / (end - started), statistics.median(firsts.values()), steps


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-process"]:
        in_process(Path(sys.argv[2]))
    else:
        main()
