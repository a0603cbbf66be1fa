"""Our own engine without HTTP: a batch a line in, what it took a line out, as `genai_batches.py`.

    python own_batches.py ENGINE THREADS

The scheduler and the executor are the server's; nothing is turned into text or sent.
"""

import itertools
import json
import sys
import time
from pathlib import Path

from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.request import Request
from pitcrew_runtime.engine_directory import open_engine

_KV_MEMORY = 1 << 30
"""Enough for every shape here, so that a server beside this process finds room too."""


def main() -> None:
    """Answer until the end of the input."""
    tuning = Tuning(threads=int(sys.argv[2]), kv_memory=_KV_MEMORY)
    engine = assemble(open_engine(Path(sys.argv[1]), 1), tuning)
    ids = itertools.count(1)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(generate(engine, ids, **json.loads(line))), flush=True)


def generate(
    engine: Engine, ids: "itertools.count[int]", prompts: list[list[int]], output: int
) -> dict[str, object]:
    """Greedy, and no end before the asked length."""
    started, now = time.perf_counter(), time.monotonic()
    requests = [Request(next(ids), tuple(prompt), output, now) for prompt in prompts]
    engine.submit(*requests)
    firsts: dict[int, float] = {}
    tokens = {request.id: 0 for request in requests}
    while not engine.idle:
        for update in engine.step(time.monotonic()).updates:
            firsts.setdefault(update.request_id, time.perf_counter() - started)
            tokens[update.request_id] += update.sampled is not None
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "firsts": list(firsts.values()), "tokens": list(tokens.values())}


if __name__ == "__main__":
    main()
