"""The attention plugin alone in a plan: against numpy in float64, in a CUDA graph, and its speed.

The floor is the bytes of keys and values, read once, over the bandwidth of a copy on this GPU.
"""

import argparse
import statistics

import numpy as np
import tensorrt.plugin as trtp
from common import build, trt
from copying import copied
from paged_case import Heads
from saying import Fact
from session import Replay, Session, milliseconds

from pitcrew_builder.targets.trt.attention.plugin import register

HEADS = Heads()
PAGE, KV_HEADS, HEAD_DIM = HEADS.page, HEADS.kv_heads, HEADS.head_dim
WIDTH, KV_WIDTH = HEADS.width, HEADS.kv_width
REPEATS = 30


def main() -> None:
    """Both precisions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--context", type=int, nargs="+", default=[512, 4096])
    options = parser.parse_args()
    register(90)
    fact = Fact("attention alone")
    bandwidth = copied()
    fact.say("copy on the GPU, read and written", f"{bandwidth / 1e12:.2f} TB/s")
    for name, kind in (("fp16", trt.float16), ("bf16", trt.bfloat16)):
        plan = build(lambda network, kind=kind: draw(network, kind), profile(options))
        fact.say(f"{name}: plan bytes", len(plan))
        session = Session(trt, plan)
        for new in (1, 5):
            feeds = HEADS.inputs(2, new, 100)
            (found,) = session.run(["attended"], feeds)
            wanted = HEADS.reference(feeds)
            error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
            fact.check(f"{name}: {new} new tokens: relative error {error:.1e}", error < 1e-2)
        for context in options.context:
            for batch in options.batch:
                time_one(fact, name, session, batch, context, bandwidth)
    fact.end()


def draw(network: object, kind: object) -> None:
    """One plugin."""
    widths = {"queries": WIDTH, "keys": KV_WIDTH, "values": KV_WIDTH}
    tensors = [network.add_input(name, kind, (-1, -1, width)) for name, width in widths.items()]
    tensors += [
        network.add_input(name, kind, (-1, PAGE, KV_HEADS, HEAD_DIM))
        for name in ("key_pool", "value_pool")
    ]
    tensors.append(network.add_input("block_tables", trt.int64, (-1, -1)))
    tensors.append(network.add_input("mask", kind, (-1, 1, -1, -1)))
    layer = network.add_plugin(trtp.op.pitcrew.PagedAttention(*tensors), aot=True)
    layer.get_output(0).name = "attended"
    network.mark_output(layer.get_output(0))


def profile(options: argparse.Namespace) -> dict[str, object]:
    """From nothing to the largest batch and context."""
    batch, blocks = max(options.batch), max(options.context) // PAGE
    pages, total = batch * blocks, blocks * PAGE + 8

    def shapes(*dims: tuple[int, int, int]) -> object:
        return tuple(tuple(dim[i] for dim in dims) for i in range(3))

    def fixed(size: int) -> tuple[int, int, int]:
        return (size, size, size)

    rows, new = (1, batch, batch), (1, 1, 8)
    pool = shapes((1, pages, pages), fixed(PAGE), fixed(KV_HEADS), fixed(HEAD_DIM))
    return {
        "queries": shapes(rows, new, fixed(WIDTH)),
        "keys": shapes(rows, new, fixed(KV_WIDTH)),
        "values": shapes(rows, new, fixed(KV_WIDTH)),
        "key_pool": pool,
        "value_pool": pool,
        "block_tables": shapes(rows, (1, blocks, blocks)),
        "mask": shapes(rows, fixed(1), new, (1, blocks * PAGE + 1, total)),
    }


def time_one(
    fact: Fact, name: str, session: Session, batch: int, context: int, bandwidth: float
) -> None:
    """Eager and replayed, and that both give the same."""
    feeds = HEADS.inputs(batch, 1, context)
    held = session.bind(feeds)
    for _ in range(3):
        session.enqueue()
    session.wait()
    first = session.read("attended", held["attended"])
    eager = statistics.median(milliseconds(session, session.enqueue, REPEATS))
    replay = Replay(session)
    held["attended"].fill(np.zeros(first.size, np.int16))
    replayed = statistics.median(milliseconds(session, replay, REPEATS))
    same = np.array_equal(first, session.read("attended", held["attended"]))
    floor = HEADS.kv_bytes(batch, context) / bandwidth * 1e3
    fact.check(
        f"{name}: batch {batch:3} context {context:5}: eager {eager * 1e3:.0f} us, graph "
        f"{replayed * 1e3:.0f} us, floor {floor * 1e3:.0f} us",
        same,
    )


if __name__ == "__main__":
    main()
