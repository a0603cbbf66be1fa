"""Do engines that `pitcrew-build` makes for the goldens compute what transformers does?

Each is built by the command, as in a Job, and its plan is run over a noisy pool with shuffled pages:
the prompts in ragged chunks of up to eight tokens, then decoding by the other profile, eagerly and in
CUDA graphs. Tokens are held against the float32 reference only where it is sure by more than half
precision rounds. A sequence alone chooses the tokens that it chooses in a batch.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import LEVEL, trt
from saying import Fact

sys.path.insert(0, str(Path(__file__).parents[3]))
from executor import Executor, Facts, Pages
from session import Array

from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.positions import first_positions
from tests.integration.builder.plans import Workshop

PAGE, CHUNK, LENGTH = 16, 8, 128
FLIPS = 2
"""Positions of 80, and tokens, that may differ where there are experts."""

ROOM = 6
"""Pages of a sequence."""

BOUNDS = {"fp16": 0.01, "bf16": 0.08}
LEADS = {"fp16": 0.02, "bf16": 0.1}
"""Of the largest logit: what half precision may move one by, and a lead that makes a token sure."""


def main() -> None:
    """A line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--precision", nargs="+", default=["fp16", "bf16"])
    parser.add_argument("--attention", default="operators", choices=["operators", "kernel"])
    parser.add_argument("--products", default="operators", choices=["operators", "kernel"])
    options = parser.parse_args()
    fact = Fact(f"families, attention {options.attention}, products {options.products}")
    for checkpoint in options.checkpoints:
        for precision in options.precision:
            try:
                told, holds = compare(checkpoint, precision, options)
            except (RuntimeError, AssertionError) as error:
                told, holds = str(error)[:400], False
            fact.check(f"{checkpoint.name:22} {precision}: {told}", holds)
    fact.end()


def compare(checkpoint: Path, precision: str, options: argparse.Namespace) -> tuple[str, bool]:
    """Build one and say how far it is from the reference."""
    start = time.perf_counter()
    plan, facts, model = built(checkpoint, precision, options)
    seconds = time.perf_counter() - start
    with np.load(checkpoint / "expected.npz") as data:
        expected = dict(data)
    prompts = expected["prompt"].tolist()
    first = first_position(model, len(prompts[0]), expected["greedy"].shape[1])
    executor = Executor(trt, plan, facts, 4 * ROOM + 3, 4 * CHUNK)
    order = np.random.default_rng(1).permutation(4 * ROOM + 3)
    tables = order[: 4 * ROOM].reshape(4, ROOM).tolist()
    batch = [Pages(table, first=first) for table in tables[:2]]
    logits = prefill(executor, batch, prompts)
    scale = float(np.abs(expected["logits"]).max())
    distances = np.abs(logits - expected["logits"]).max(-1) / scale
    distance = float(distances.max())
    beyond = [tuple(map(int, at)) for at in np.argwhere(distances > BOUNDS[precision])]
    agreed, sure, same = follow(
        executor, batch, logits, expected["greedy"], LEADS[precision] * scale
    )
    # A router in half precision may send a row to other experts where two are nearly alike.
    spared = FLIPS if has_experts(checkpoint) else 0
    alike = is_alike(executor, tables, prompts, expected["greedy"].shape[1], first)
    told = (
        f"logits {distance:.1e} of the largest apart, more than {BOUNDS[precision]} "
        f"at {beyond} of {distances.size} positions; greedy tokens {agreed} of {sure} sure ones; "
        f"graphs {'as' if same else 'NOT as'} eager bit for bit; alone {alike} as in a batch; "
        f"built in {seconds:.1f} s, {len(plan) / 1e6:.1f} MB"
    )
    right = len(beyond) <= spared and sure - agreed <= spared
    return told, right and same and alike == "the same"


def has_experts(checkpoint: Path) -> bool:
    """Whether it is a mixture."""
    config = json.loads((checkpoint / "config.json").read_text())
    return any(key in config for key in ("num_local_experts", "num_experts"))


def first_position(model: ModelFacts, prompt: int, answer: int) -> int:
    """Of texts of so many tokens. Those that outgrow short ones have to be computed again, which is a
    scheduler's work: RuntimeError.
    """
    begin, end = map(int, first_positions(model, np.array([prompt, prompt + answer])))
    if begin != end:
        raise RuntimeError("its texts outgrow short ones; leave it out")
    return begin


def built(
    checkpoint: Path, precision: str, options: argparse.Namespace
) -> tuple[bytes, Facts, ModelFacts]:
    """The plan of a published engine, and what its manifest tells."""
    spec = {
        "target": "tensorrt",
        "precision": precision,
        "shapes": {"maxBatchSize": 4, "maxSequenceLength": LENGTH, "kvPageSize": PAGE},
        "tensorrt": {
            "computeCapability": "sm90",
            "optimizationLevel": LEVEL,
            "prefillChunk": 16,
            "attention": options.attention,
            "products": options.products,
        },
    }
    with tempfile.TemporaryDirectory() as work:
        path, manifest = Workshop(Path(work)).publish(checkpoint, **spec)
        plan = (path / manifest.ranks[0].graph).read_bytes()
    model = manifest.model
    facts = Facts(model.layers, model.kv_heads, model.head_dim, model.vocab_size, PAGE)
    return plan, facts, model


def prefill(
    executor: Executor, batch: list[Pages], prompts: list[list[int]], *, ragged: bool = True
) -> Array:
    """Chunks, until all are through; ragged ones: the sequences take turns at being short."""
    done, found = [0] * len(batch), [[] for _ in batch]
    turn = 0
    while any(at < len(prompt) for at, prompt in zip(done, prompts, strict=True)):
        short = turn % (len(batch) + 1)
        sizes = [CHUNK - 5 * (ragged and row == short) for row in range(len(batch))]
        live = [row for row, at in enumerate(done) if at < len(prompts[row])]
        tokens = [prompts[row][done[row] : done[row] + sizes[row]] for row in live]
        results = executor.step([batch[row] for row in live], tokens)
        for row, fed, scores in zip(live, tokens, results, strict=True):
            done[row] += len(fed)
            found[row].append(scores)
        turn += 1
    return np.stack([np.concatenate(each) for each in found])


def follow(
    executor: Executor, batch: list[Pages], logits: Array, greedy: Array, lead: float
) -> tuple[int, int, bool]:
    """Follow the reference's tokens; how many of those that win clearly are also chosen here, and
    whether a captured step gives what an eager one does.
    """
    scores, agreed, sure, same = logits[:, -1], 0, 0, True
    for step in range(greedy.shape[1]):
        for row in range(len(batch)):
            best = np.sort(scores[row])[-2:]
            if best[1] - best[0] > lead:
                sure += 1
                agreed += int(scores[row].argmax()) == greedy[row, step]
        fed = [[int(token)] for token in greedy[:, step]]
        again = [Pages(each.table, each.length, each.first) for each in batch]
        scores = np.stack([item[-1] for item in executor.step(batch, fed)])
        replayed = np.stack([item[-1] for item in executor.step(again, fed, graph=True)])
        same = same and np.array_equal(scores, replayed)
    return agreed, sure, same


def is_alike(
    executor: Executor, tables: list[list[int]], prompts: list[list[int]], count: int, first: int
) -> str:
    """Whether greedy tokens of a sequence alone are those in a batch of four."""

    def greedy(rows: list[int]) -> list[list[int]]:
        batch = [Pages(tables[row], first=first) for row in rows]
        chosen = [prompts[row % len(prompts)] for row in rows]
        scores = prefill(executor, batch, chosen, ragged=False)[:, -1]
        tokens: list[list[int]] = [[] for _ in rows]
        for _ in range(count):
            for each, best in zip(tokens, scores.argmax(-1), strict=True):
                each.append(int(best))
            fed = [each[-1:] for each in tokens]
            scores = np.stack([item[-1] for item in executor.step(batch, fed, graph=True)])
        return tokens

    together = greedy([0, 1, 2, 3])
    alone = [greedy([row])[0] for row in range(4)]
    return "the same" if together == alone else f"{alone} NOT"


if __name__ == "__main__":
    main()
