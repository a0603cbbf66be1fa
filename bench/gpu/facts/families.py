"""Do plans of the goldens compute what transformers does?

For each checkpoint and precision: the logits of the prompts in chunks of eight tokens, over noisy
pools and shuffled tables, and greedy tokens by the decode profile, batched. Tokens are held against
the float32 reference only where it is sure by more than half precision rounds.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import trt
from networks import compile_plan, draw, parse
from saying import Fact
from session import Session

from pitcrew_builder.manifest import ResolvedShapes

sys.path.insert(0, str(Path(__file__).parents[3]))
PAGE = 16
CHUNK = 8
LENGTH = 128


def main() -> None:
    """A line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--precision", nargs="+", default=["fp16", "bf16"])
    parser.add_argument("--plugin", action="store_true", help="attention by the plugin")
    options = parser.parse_args()
    fact = Fact("families" + (", attention by the plugin" if options.plugin else ""))
    if options.plugin:
        from pitcrew_builder.targets.trt.attention.plugin import register

        register(90)
    for checkpoint in options.checkpoints:
        for precision in options.precision:
            try:
                told, holds = compare(checkpoint, precision)
            except RuntimeError as error:
                told, holds = str(error), False
            fact.check(f"{checkpoint.name:24} {precision}: {told}", holds)
    fact.end()


def compare(checkpoint: Path, precision: str) -> tuple[str, bool]:
    """Build one and say how far it is from the reference."""
    shapes = ResolvedShapes(max_batch_size=2, max_sequence_length=LENGTH, kv_page_size=PAGE)
    with np.load(checkpoint / "expected.npz") as data:
        expected = dict(data)
    with tempfile.TemporaryDirectory() as work:
        drawn = draw(checkpoint, Path(work), shapes, precision, 16)
        parsed = parse(drawn.graph)
        if parsed.problems:
            raise RuntimeError("; ".join(parsed.problems))
        start = time.perf_counter()
        plan = compile_plan(parsed, drawn)
        seconds = time.perf_counter() - start
    from tests.golden.reference import Batch

    model = {"kvHeads": drawn.kv_heads, "headDim": drawn.head_dim, "layers": drawn.layers}
    engine = Engine(Session(trt, plan), {"model": model, "ranks": [{}]}, PAGE)
    batch = Batch(engine, 2, 80, np.random.default_rng(0))
    prompts = expected["prompt"].tolist()
    pieces = [
        np.stack(batch.feed([row[i : i + CHUNK] for row in prompts]))
        for i in range(0, len(prompts[0]), CHUNK)
    ]
    logits = np.concatenate(pieces, axis=1)
    scale = float(np.abs(expected["logits"]).max())
    distance = float(np.abs(logits - expected["logits"]).max()) / scale
    agreed, sure = decode(engine, batch, logits, expected["greedy"], scale, precision)
    bound = 0.01 if precision == "fp16" else 0.08
    told = (
        f"logits {distance:.1e} of the largest apart; greedy tokens {agreed} of {sure} sure ones; "
        f"built in {seconds:.1f} s, {len(plan) / 1e6:.1f} MB"
    )
    return told, distance < bound and agreed == sure


def decode(
    engine: "Engine", batch: object, logits: np.ndarray, greedy: np.ndarray, scale: float, kind: str
) -> tuple[int, int]:
    """Follow the reference's tokens; how many of those that win clearly are also chosen here."""
    engine.session.use(1)
    lead = (0.02 if kind == "fp16" else 0.1) * scale
    scores, agreed, sure = logits[:, -1], 0, 0
    for step in range(greedy.shape[1]):
        for row in range(2):
            best = np.sort(scores[row])[-2:]
            token = int(scores[row].argmax())
            if best[1] - best[0] > lead:
                sure += 1
                agreed += token == greedy[row, step]
        fed = [[int(token)] for token in greedy[:, step]]
        scores = np.stack([item[-1] for item in batch.feed(fed)])
    engine.session.use(0)
    return agreed, sure


class Engine:
    """What `tests.golden.reference.Batch` asks of an engine."""

    def __init__(self, session: Session, manifest: dict[str, object], page: int) -> None:
        self.session, self.manifest, self.page = session, manifest, page


if __name__ == "__main__":
    main()
