"""Do engines that `pitcrew-build` makes for the goldens, served by the runtime, compute what transformers does?

Each is built by the command, as in a Job, and opened by the runtime, over a noisy pool with shuffled
pages: the prompts in ragged chunks, then decoding, eagerly and in CUDA graphs. Then the runtime's engine
answers the prompts alone and in every company. Tokens are held against the float32 reference, and
companies against the answer alone, up to where half precision may rightly choose another one: at a lead
that is smaller than what it rounds.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import LEVEL
from saying import Fact

sys.path.insert(0, str(Path(__file__).parents[3]))
from served import Logits, Served, Text, differs_at, generated, lead, tokens_of

from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.positions import first_positions
from pitcrew_runtime.core.request import Sampled, Sampling
from tests.integration.builder.plans import Workshop

PAGE, LENGTH, ANSWER = 16, 128, 40
FLIPS = 2
"""Positions of 80, and texts, that may differ where there are experts."""

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
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--expert-parallel", type=int, default=1)
    options = parser.parse_args()
    ranks = options.tensor_parallel * options.expert_parallel
    split = f", {ranks} GPUs" if ranks > 1 else ""
    fact = Fact(f"families, attention {options.attention}, products {options.products}{split}")
    for checkpoint in options.checkpoints:
        for precision in options.precision:
            with tempfile.TemporaryDirectory() as work:
                try:
                    path, seconds = built(Path(work), checkpoint, precision, options)
                    told, holds = compare(path, checkpoint, precision)
                    told += f"; built in {seconds:.1f} s"
                except (RuntimeError, AssertionError) as error:
                    told, holds = f"{type(error).__name__}: {error}"[:400], False
            fact.check(f"{checkpoint.name:22} {precision}: {told}", holds)
    fact.end()


def built(
    work: Path, checkpoint: Path, precision: str, options: argparse.Namespace
) -> tuple[Path, float]:
    """A published engine, and the seconds that it took."""
    spec = {
        "target": "tensorrt",
        "precision": precision,
        "parallelism": {"tensor": options.tensor_parallel, "expert": options.expert_parallel},
        "shapes": {"maxBatchSize": 4, "maxSequenceLength": LENGTH, "kvPageSize": PAGE},
        "tensorrt": {
            "computeCapability": "sm90",
            "optimizationLevel": LEVEL,
            "prefillChunk": 64,
            "attention": options.attention,
            "products": options.products,
        },
    }
    start = time.perf_counter()
    path, _ = Workshop(work).publish(checkpoint, **spec)
    return path, time.perf_counter() - start


def compare(path: Path, checkpoint: Path, precision: str) -> tuple[str, bool]:
    """Say how far one is from the reference, and whether company changes anything."""
    with np.load(checkpoint / "expected.npz") as data:
        expected = dict(data)
    served = Served(path, 4 * ROOM + 3)
    prompts, greedy = expected["prompt"].tolist(), expected["greedy"].tolist()
    scale = float(np.abs(expected["logits"]).max())
    # A router in half precision may send a row to other experts where two are nearly alike.
    spared = FLIPS if has_experts(checkpoint) else 0
    told, right = [], True
    if is_of_one_kind(served.manifest.model, len(prompts[0]), len(greedy[0])):
        logits, same = fed(served, prompts, greedy)
        distances = np.abs(logits - expected["logits"]).max(-1) / scale
        beyond = [tuple(map(int, at)) for at in np.argwhere(distances > BOUNDS[precision])]
        told.append(
            f"logits {distances.max():.1e} of the largest apart, more than {BOUNDS[precision]} at "
            f"{beyond} of {distances.size}; graphs {'as' if same else 'NOT as'} eager bit for bit"
        )
        right = same and len(beyond) <= spared
    bound = LEADS[precision] * scale
    alone = [
        generated(served.engine(27), [prompt], ANSWER, Sampling(logprobs=2))[0]
        for prompt in prompts
    ]
    agreed = agreement([tokens_of(each)[: len(greedy[0])] for each in alone], greedy, alone, bound)
    told.append(f"tokens as transformers' {agreed}")
    right = right and agreed.wrong <= spared
    for name, found in companies(served, prompts, ANSWER).items():
        # The same prompts come again and again.
        own = [alone[index % len(prompts)] for index in range(len(found))]
        agreed = agreement(found, [tokens_of(each) for each in own], own, bound)
        told.append(f"{name} as alone {agreed}")
        right = right and agreed.wrong <= spared
    served.network.close()
    return "; ".join(told), right


@dataclass(frozen=True)
class Agreement:
    """How many texts are the same, first differ where a lead is small, or elsewhere."""

    same: int
    near: int
    wrong: int

    def __str__(self) -> str:
        told = f"{self.same} of {self.same + self.near + self.wrong}"
        told += f", {self.near} first differ at near ties" if self.near else ""
        return told + (f", {self.wrong} ELSEWHERE" if self.wrong else "")


def agreement(
    found: list[list[int]], wanted: list[list[int]], alone: list[list[Sampled]], bound: float
) -> Agreement:
    """Of texts with others; `alone` has the leads."""
    counts = Counter[str]()
    for tokens, others, sampled in zip(found, wanted, alone, strict=True):
        place = differs_at(tokens, others)
        near = place is not None and lead(sampled[place]) < bound
        counts["same" if place is None else "near" if near else "wrong"] += 1
    return Agreement(counts["same"], counts["near"], counts["wrong"])


def companies(served: Served, prompts: list[list[int]], count: int) -> dict[str, list[list[int]]]:
    """The same requests, in other company: tokens of each."""
    four = [*prompts, *prompts]
    crowd = [prompts[index % len(prompts)] for index in range(12)]
    # One after the other: they share the pages.
    cached, squeezed = served.engine(27), served.engine(ROOM + 1)
    generated(cached, prompts, count)
    found = {
        "prefixes": generated(cached, four, count),
        "batch": generated(served.engine(27), four, count),
        "crowd": generated(served.engine(27), crowd, count),
        "chunks": generated(served.engine(27, step_tokens=7), four, count),
        "preempted": generated(squeezed, crowd, count),
        "guesses": generated(served.engine(27, lookahead=4), four, count),
        "logprobs": generated(served.engine(27), four, count, Sampling(logprobs=0)),
    }
    assert cached.gauges().counts.reused_tokens > 0, "no prefix was found"
    counts = squeezed.gauges().counts
    assert counts.preemptions + counts.outgrown > 0, "nobody was preempted"
    return {name: [tokens_of(one) for one in each] for name, each in found.items()}


def fed(served: Served, prompts: list[list[int]], greedy: list[list[int]]) -> tuple[Logits, bool]:
    """Logits after every token of the prompts, in ragged chunks; and whether a step of decoding that
    is replayed gives what the one before gave, which of a new shape was an eager one.
    """
    order = np.random.default_rng(1).permutation(4 * ROOM + 3)
    texts = [Text(table) for table in order[: 2 * ROOM].reshape(2, ROOM).tolist()]
    found: list[list[Logits]] = [[] for _ in texts]
    turn = 0
    # A text that is long from the beginning.
    long = not first_positions(served.manifest.model, np.array([len(prompts[0])]))[0]
    while live := [row for row, text in enumerate(texts) if len(text.tokens) < len(prompts[row])]:
        sizes = [served.chunk - 5 * (row == turn % 3) for row in live]
        starts = [len(texts[row].tokens) for row in live]
        tokens = [
            prompts[row][at : at + size] for row, at, size in zip(live, starts, sizes, strict=True)
        ]
        scores = served.feed([texts[row] for row in live], tokens, long=long)
        for row, each in zip(live, scores, strict=True):
            found[row].append(each)
        turn += 1
    same = True
    for step in zip(*greedy, strict=True):
        again = [Text(text.table, list(text.tokens)) for text in texts]
        tokens = [[token] for token in step]
        first, second = (served.feed(each, tokens, long=long) for each in (texts, again))
        same = same and np.array_equal(first, second)
    return np.stack([np.concatenate(each) for each in found]), same


def has_experts(checkpoint: Path) -> bool:
    """Whether it is a mixture."""
    config = json.loads((checkpoint / "config.json").read_text())
    return any(key in config for key in ("num_local_experts", "num_experts"))


def is_of_one_kind(model: ModelFacts, prompt: int, answer: int) -> bool:
    """Whether its texts, of so many tokens, do not outgrow short ones on the way: those are computed
    again, which is a scheduler's work.
    """
    begin, end = map(int, first_positions(model, np.array([prompt, prompt + answer])))
    return begin == end


if __name__ == "__main__":
    main()
