"""The sample model, served by the runtime on the GPU beside the same model on ONNX Runtime, both built by
`pitcrew-build`.

The plan has to give the tokens that the manifest's canary tells, and is compared with the CPU's engine
over held-out text: how often both have the same likeliest token, their perplexities, and what both
engines say after prompts, all asked at once.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import LEVEL
from saying import Fact

sys.path.insert(0, str(Path(__file__).parents[3]))
from families import LEADS, agreement
from served import Logits, Served, Text, generated, tokens_of
from tokenizers import Tokenizer

from pitcrew_runtime.core.request import Sampled, Sampling
from tests.integration.builder.plans import SAMPLE, Workshop

PAGE, ROWS, TOKENS = 16, 4, 128
PROMPTS, PROMPT, ANSWER = 16, 24, 60
PAGES = 128


def main() -> None:
    """Both precisions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attention", default="kernel", choices=["operators", "kernel"])
    parser.add_argument("--products", default="kernel", choices=["operators", "kernel"])
    options = parser.parse_args()
    fact = Fact(f"sample, attention {options.attention}, products {options.products}")
    text = (SAMPLE / "heldout-text.txt").read_text()
    ids = Tokenizer.from_file(str(SAMPLE / "tokenizer.json")).encode(text).ids
    with tempfile.TemporaryDirectory() as work:
        workshop = Workshop(Path(work))
        shapes = {"maxBatchSize": PROMPTS, "maxSequenceLength": 2 * TOKENS, "kvPageSize": PAGE}
        path, _ = workshop.publish(SAMPLE, shapes=shapes)
        reference = said(Served(path, PAGES), ids)
        for precision in ("fp16", "bf16"):
            told = {"attention": options.attention, "products": options.products}
            told |= {"computeCapability": "sm90", "optimizationLevel": LEVEL, "prefillChunk": 64}
            path, manifest = workshop.publish(
                SAMPLE, target="tensorrt", precision=precision, shapes=shapes, tensorrt=told
            )
            served = Served(path, PAGES)
            prompt, wanted = manifest.canary.prompt, list(manifest.canary.continuation)
            (answer,) = generated(served.engine(PAGES), [prompt], len(wanted))
            found = tokens_of(answer)
            fact.check(f"{precision}: {len(wanted)} tokens of the canary", found == wanted)
            compare(fact, precision, said(served, ids), reference, np.array(ids))
            served.network.close()
    fact.end()


def said(served: Served, ids: list[int]) -> tuple[Logits, list[list[Sampled]]]:
    """Logits [ROWS, TOKENS, vocab] of the text's beginning, and answers to pieces of what follows."""
    blocks = 2 * TOKENS // PAGE
    order = np.random.default_rng(0).permutation(ROWS * blocks).reshape(ROWS, blocks).tolist()
    texts, chunk = [Text(table) for table in order], 8
    rows = np.array(ids[: ROWS * TOKENS]).reshape(ROWS, TOKENS).tolist()
    pieces = [
        np.stack(served.feed(texts, [row[at : at + chunk] for row in rows]))
        for at in range(0, TOKENS, chunk)
    ]
    begins = range(ROWS * TOKENS, ROWS * TOKENS + PROMPTS * PROMPT, PROMPT)
    prompts = [ids[begin : begin + PROMPT] for begin in begins]
    answers = generated(served.engine(PAGES), prompts, ANSWER, Sampling(logprobs=2))
    return np.concatenate(pieces, axis=1), answers


def compare(
    fact: Fact,
    precision: str,
    found: tuple[Logits, list[list[Sampled]]],
    wanted: tuple[Logits, list[list[Sampled]]],
    ids: np.ndarray,
) -> None:
    """One plan with the CPU's engine."""
    rows = ids[: ROWS * TOKENS].reshape(ROWS, TOKENS)
    (logits, answers), (reference, others) = found, wanted
    same = float((logits.argmax(-1) == reference.argmax(-1)).mean())
    here, there = perplexity(logits, rows), perplexity(reference, rows)
    told = f"likeliest tokens the same at {same:.1%} of {rows.size}, perplexity {here:.3f} and {there:.3f}"
    fact.check(f"{precision}: {told}", same > 0.97 and abs(here / there - 1) < 0.01)
    bound = LEADS[precision] * float(np.abs(reference).max())
    texts = [[tokens_of(each) for each in side] for side in (answers, others)]
    agreed = agreement(*texts, others, bound)
    fact.check(f"{precision}: answers of {ANSWER} tokens as the CPU's: {agreed}", not agreed.wrong)


def perplexity(logits: Logits, rows: np.ndarray) -> float:
    """Of every row's tokens but its first."""
    scores = logits[:, :-1].astype(np.float64)
    highest = scores.max(-1, keepdims=True)
    total = np.log(np.exp(scores - highest).sum(-1)) + highest[..., 0]
    chosen = np.take_along_axis(scores, rows[:, 1:, None], axis=-1)[..., 0]
    return float(np.exp((total - chosen).mean()))


if __name__ == "__main__":
    main()
