"""What a Llama of 1B shape costs on this GPU: building, a decode step, and CUDA graphs.

Random weights, hidden 2048, 16 layers, 32 query and 8 KV heads of 64. One step of decoding is timed
eagerly and as a replayed graph, by batch and context, and PyTorch's for the same shape where it is
installed; beside it the floor, the bytes of weights and KV over the bandwidth of a copy on this GPU.
"""

import argparse
import gc
import json
import re
import resource
import statistics
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import trt
from copying import copied
from networks import Drawn, compile_plan, draw, parse
from saying import Fact
from session import Buffer, Replay, Session, milliseconds

from pitcrew_builder.manifest import ResolvedShapes
from pitcrew_builder.spec import Attention, Products
from pitcrew_builder.targets.trt.kernel_choice import register

PAGE = 16
CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "tie_word_embeddings": True,
}
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
REPEATS = 30
CHUNK = 512


def main() -> None:
    """Build, and time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--small", action="store_true", help="two narrow layers, for correctness")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--context", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--attention", default="operators", choices=list(Attention))
    parser.add_argument("--products", default="operators", choices=list(Products))
    options = parser.parse_args()
    fact = Fact(f"speed, {options.precision}")
    bandwidth = copied()
    fact.say("copy on the GPU, read and written", f"{bandwidth / 1e12:.2f} TB/s")
    longest = max(options.context) + CHUNK
    shapes = ResolvedShapes(
        max_batch_size=max(options.batch), max_sequence_length=longest, kv_page_size=PAGE
    )
    with tempfile.TemporaryDirectory() as work:
        checkpoint = write(Path(work, "llama"), CONFIG | (SMALL if options.small else {}))
        drawn = draw(
            checkpoint,
            Path(work, "graph"),
            shapes,
            options.precision,
            CHUNK,
            Attention(options.attention),
            Products(options.products),
        )
        register(drawn.options)
        measure(fact, drawn, options, bandwidth)
    if find_spec("torch") and not options.small:
        from torch_llama import yardstick

        yardstick(fact, CONFIG, options.precision, options.batch, options.context)
    fact.end()


def measure(fact: Fact, drawn: Drawn, options: argparse.Namespace, bandwidth: float) -> None:
    """One plan, all batches and contexts."""
    start = time.perf_counter()
    plan = compile_plan(parse(drawn.graph), drawn)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fact.say(
        "built",
        f"{seconds:.1f} s, plan {len(plan) / 1e6:.0f} MB, peak memory of the host {peak:.0f} MiB",
    )
    start = time.perf_counter()
    session = Session(trt, plan, profile=1)
    del plan
    gc.collect()
    activations = session.engine.device_memory_size_v2 / 1e6
    fact.say(
        "opened",
        f"{time.perf_counter() - start:.1f} s, activations {activations:.0f} MB",
    )
    for context in options.context:
        for batch in options.batch:
            eager, replayed, same = step(session, drawn, batch, context)
            kv = 2 * drawn.layers * drawn.kv_heads * drawn.head_dim * 2 * batch * context
            floor = (drawn.weights + kv) / bandwidth * 1e3
            fact.check(
                f"batch {batch:3} context {context:5}: eager {eager:.3f} ms, "
                f"graph {replayed:.3f} ms, floor {floor:.3f} ms, "
                f"{batch / replayed * 1e3:.0f} tokens/s",
                same,
            )
    session.use(0)
    for context in (0, *options.context):
        taken = prefill(session, drawn, context)
        fact.say(
            f"prefill of {CHUNK} tokens after {context}",
            f"{taken:.2f} ms, {CHUNK / taken * 1e3:.0f} tokens/s",
        )
    session.use(1)
    fact.say("layers of one eager step", f"batch {options.batch[0]}, context {options.context[0]}")
    for told in slowest(session, drawn, options.batch[0], options.context[0]):
        fact.say("with a clock at each", told)


def prefill(session: Session, drawn: Drawn, context: int) -> float:
    """Median milliseconds of a replayed step of many new tokens of one sequence after others."""
    held, _ = bound(session, drawn, 1, context, CHUNK)
    for _ in range(2):
        session.enqueue()
    session.wait()
    taken = statistics.median(milliseconds(session, Replay(session), REPEATS))
    del held
    return taken


def bound(
    session: Session, drawn: Drawn, batch: int, context: int, new: int = 1
) -> tuple[dict[str, Buffer], np.random.Generator]:
    """A step, bound; what is returned has to be kept. `context` is before a prefill, and after a
    step of decoding.
    """
    blocks = -(-context // PAGE)
    pages = max(1, batch * blocks)
    past = context - 1 if new == 1 else context
    rng = np.random.default_rng(0)
    shape = (pages, PAGE, drawn.kv_heads, drawn.head_dim)
    half = np.dtype(session.types["key_pool.0"])
    noise = (0.1 * rng.standard_normal(shape, dtype=np.float32)).astype(half)
    pools = {
        f"{kind}_pool.{layer}": Buffer.of(noise)
        for layer in range(drawn.layers)
        for kind in ("key", "value")
    }
    feeds = {
        "input_ids": rng.integers(0, drawn.vocab, (batch, new)),
        "positions": np.broadcast_to(past + np.arange(new), (batch, new)),
        "block_tables": rng.permutation(pages)[: batch * blocks].reshape(batch, blocks),
        "context_lengths": np.full(batch, past),
        "logit_indices": np.zeros((batch, 1), np.int64),
        **pools,
    }
    held = session.bind(feeds, **dict.fromkeys(pools, shape))
    return held, rng


def step(session: Session, drawn: Drawn, batch: int, context: int) -> tuple[float, float, bool]:
    """Median milliseconds of a decode step: eager, replayed; and whether both gave one result."""
    held, rng = bound(session, drawn, batch, context)
    for _ in range(3):
        session.enqueue()
    session.wait()
    first = session.read("logits", held["logits"])
    eager = statistics.median(milliseconds(session, session.enqueue, REPEATS))
    replay = Replay(session)
    held["logits"].fill(np.zeros_like(first))
    replayed = statistics.median(milliseconds(session, replay, REPEATS))
    same = np.array_equal(first, session.read("logits", held["logits"]))
    ids = rng.integers(0, drawn.vocab, (batch, 1))
    held["input_ids"].fill(ids.astype(session.types["input_ids"]))
    replay()
    session.wait()
    other = session.read("logits", held["logits"])
    session.enqueue()
    session.wait()
    same = same and np.array_equal(other, session.read("logits", held["logits"]))
    return eager, replayed, bool(same and not np.array_equal(first, other))


def slowest(session: Session, drawn: Drawn, batch: int, context: int) -> list[str]:
    """What the kinds of layers take in a step, by their names without layers' numbers."""
    held, _ = bound(session, drawn, batch, context)
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()

    class Profiler(trt.IProfiler):
        def report_layer_time(self, name: str, milliseconds: float) -> None:
            kind = re.sub(r"\d+", "*", name)[:70]
            times[kind] += milliseconds
            counts[kind] += 1

    for _ in range(2):
        session.enqueue()
        session.wait()
    session.context.profiler = Profiler()
    session.enqueue()
    session.wait()
    del held
    return [
        f"{1e3 * time:7.0f} us in {counts[kind]:3}: {kind}" for kind, time in times.most_common(14)
    ]


def write(directory: Path, config: dict[str, object]) -> Path:
    """A random checkpoint in float16, one file."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    kv = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.k_proj.weight": (kv, hidden),
            f"{prefix}.self_attn.v_proj.weight": (kv, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.mlp.gate_proj.weight": (wide, hidden),
            f"{prefix}.mlp.up_proj.weight": (wide, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, wide),
        }
    from safetensors.numpy import save_file

    # Pieces of one stream of noise: drawing a billion numbers takes longer than the plan. Each begins
    # elsewhere, as equal weights would be stored and cached once.
    noise = np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32).astype(np.float16)
    tensors = {
        name: np.ones(shape, np.float16)
        if len(shape) == 1
        else np.resize(np.roll(noise, 4099 * at), shape) / np.float16(shape[1] ** 0.5)
        for at, (name, shape) in enumerate(shapes.items())
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


if __name__ == "__main__":
    main()
