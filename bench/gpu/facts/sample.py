"""The sample model as a plan beside the same model on ONNX Runtime, both built by `pitcrew-build`.

The plan has to give the tokens that the manifest's canary tells, and is compared with the CPU's engine
over held-out text: how often both have the same likeliest token, and their perplexities.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import LEVEL, trt
from saying import Fact

sys.path.insert(0, str(Path(__file__).parents[3]))
from executor import Executor, Facts, Pages
from session import Array
from tokenizers import Tokenizer

from pitcrew_builder.manifest import Manifest
from tests.golden.reference import ReferenceEngine
from tests.integration.builder.plans import SAMPLE, Workshop

PAGE, CHUNK, ROWS, TOKENS = 16, 8, 4, 128


def main() -> None:
    """Both precisions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attention", default="kernel", choices=["operators", "kernel"])
    parser.add_argument("--products", default="kernel", choices=["operators", "kernel"])
    options = parser.parse_args()
    fact = Fact(f"sample, attention {options.attention}, products {options.products}")
    text = (SAMPLE / "heldout-text.txt").read_text()
    ids = Tokenizer.from_file(str(SAMPLE / "tokenizer.json")).encode(text).ids
    rows = np.array(ids[: ROWS * TOKENS]).reshape(ROWS, TOKENS)
    with tempfile.TemporaryDirectory() as work:
        workshop = Workshop(Path(work))
        shapes = {"maxBatchSize": ROWS, "maxSequenceLength": 2 * TOKENS, "kvPageSize": PAGE}
        path, _ = workshop.publish(SAMPLE, shapes=shapes)
        reference = np.stack(ReferenceEngine(path).batch(ROWS, TOKENS).feed(rows.tolist()))
        for precision in ("fp16", "bf16"):
            told = {"attention": options.attention, "products": options.products}
            told |= {"computeCapability": "sm90", "optimizationLevel": LEVEL, "prefillChunk": 64}
            path, manifest = workshop.publish(
                SAMPLE, target="tensorrt", precision=precision, shapes=shapes, tensorrt=told
            )
            compare(fact, precision, path, manifest, rows, reference)
    fact.end()


def compare(
    fact: Fact, precision: str, path: Path, manifest: Manifest, rows: Array, reference: Array
) -> None:
    """One plan."""
    model = manifest.model
    facts = Facts(model.layers, model.kv_heads, model.head_dim, model.vocab_size, PAGE)
    blocks = 2 * TOKENS // PAGE
    plan = (path / manifest.ranks[0].graph).read_bytes()
    executor = Executor(trt, plan, facts, ROWS * blocks, ROWS * CHUNK)
    tables = np.random.default_rng(0).permutation(ROWS * blocks).reshape(ROWS, blocks).tolist()
    prompt, wanted = list(manifest.canary.prompt), list(manifest.canary.continuation)
    found = greedy(executor, Pages(tables[0]), prompt, len(wanted))
    fact.check(
        f"{precision}: {len(wanted)} tokens of the canary: {found == wanted}", found == wanted
    )
    logits = fed(executor, [Pages(table) for table in tables], rows.tolist())
    same = float((logits.argmax(-1) == reference.argmax(-1)).mean())
    here, there = perplexity(logits, rows), perplexity(reference, rows)
    told = f"likeliest tokens the same at {same:.1%} of {rows.size}, perplexity {here:.3f} and {there:.3f}"
    fact.check(f"{precision}: {told}", same > 0.97 and abs(here / there - 1) < 0.01)


def fed(executor: Executor, batch: list[Pages], rows: list[list[int]]) -> Array:
    """The logits after every token."""
    pieces = [
        np.stack(executor.step(batch, [row[at : at + CHUNK] for row in rows]))
        for at in range(0, len(rows[0]), CHUNK)
    ]
    return np.concatenate(pieces, axis=1)


def greedy(executor: Executor, pages: Pages, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens after a prompt, by CUDA graphs."""
    scores, tokens = fed(executor, [pages], [prompt])[0, -1], []
    while len(tokens) < count:
        tokens.append(int(scores.argmax()))
        scores = executor.step([pages], [tokens[-1:]], graph=True)[0][-1]
    return tokens


def perplexity(logits: Array, rows: Array) -> float:
    """Of every row's tokens but its first."""
    scores = logits[:, :-1].astype(np.float64)
    highest = scores.max(-1, keepdims=True)
    total = np.log(np.exp(scores - highest).sum(-1)) + highest[..., 0]
    chosen = np.take_along_axis(scores, rows[:, 1:, None], axis=-1)[..., 0]
    return float(np.exp((total - chosen).mean()))


if __name__ == "__main__":
    main()
