"""Engines of random configurations against transformers, until a time is over.

Runs where torch, transformers and Pitcrew's builder are installed, which the project never needs:

    python -m venv reference
    reference/bin/pip install torch transformers==5.23.0 -e '.[builder]'
    reference/bin/python -m tests.golden.fuzz --seconds 300 [--seed N] [--adapters] [FAMILY ...]

With `--adapters` (and `pip install peft`) each checkpoint gets a LoRA adapter, which is merged.

The ground truth is what `from_pretrained` makes of the files that the builder reads. A checkpoint
that transformers refuses is no case; one that Pitcrew refuses is counted under its message, to be
judged by a reader. Numbers that differ are a fault, and make the exit code 1.
"""

import argparse
import logging
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]

from pitcrew_builder.errors import BuildError, InvalidSpec
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import Adapter, BuildSpec, LocalSource, Parallelism, Shapes
from tests.golden.cases import Case
from tests.golden.draws import NAMES, draw, draw_adapter, draw_split
from tests.golden.generate import Floats, make_model, pack_experts, save
from tests.golden.reference import ReferenceEngine

PROMPT, CONTINUATION = 72, 12
ADAPTER = "adapter"
CLOSE, CLEAR = 1e-3, 5e-3
"""The bar for logits, and by how much a choice must be won to be compared."""


@dataclass(slots=True)
class Tally:
    """What became of the cases."""

    same: Counter[str] = field(default_factory=Counter)
    illegal: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    worst: float = 0.0
    split: int = 0
    """Of those that were built, how many on several ranks."""
    contiguous: int = 0
    """How many were compared in the form that reads contexts in place, too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, compare, and print what was seen."""
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("families", nargs="*", default=NAMES)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=1 << 30)
    parser.add_argument("--adapters", action="store_true", help="merge a LoRA adapter into each")
    args = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tally, until, seed = Tally(), time.monotonic() + args.seconds, args.seed
    while time.monotonic() < until and seed < args.seed + args.cases:
        family = args.families[seed % len(args.families)]
        judge(family, seed, tally, adapters=args.adapters)
        seed += 1
    print(
        f"{sum(tally.same.values())} cases agree, {tally.split} split, {tally.contiguous} in two forms: {dict(tally.same)}; worst {tally.worst:.1e}"
    )
    for title, counts in (("not legal", tally.illegal), ("refused", tally.refused)):
        for reason, count in counts.most_common():
            print(f"{title} {count}: {reason}")
    print("\n".join(tally.faults) or "no faults")
    return 1 if tally.faults else 0


def judge(family: str, seed: int, tally: Tally, *, adapters: bool = False) -> None:
    """One case, into the tally."""
    rng = random.Random(seed)
    case, split = draw(family, rng), draw_split(rng)
    page = rng.choice([1, 7, 16])
    adapter = draw_adapter(case, rng) if adapters else None
    engine = None
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        try:
            prompt, logits, greedy, margin = _truth(case, seed, where, adapter)
        except Exception as error:  # noqa: BLE001 - whatever transformers raises of it
            tally.illegal[f"{family}: {type(error).__name__}: {str(error)[:150]}"] += 1
            return
        try:
            with suppress(InvalidSpec):
                engine = _engine(case, where, page, split)
            if engine is None:
                engine = _engine(case, where, page, Parallelism())
        except BuildError as error:
            tally.refused[f"{family}: {str(error)[:250]}"] += 1
            return
        except Exception:  # noqa: BLE001 - a crash is a fault too
            tally.faults.append(f"{family} seed {seed}: {traceback.format_exc(limit=-3)}")
            return
        problem, far = compare(engine, prompt, logits, greedy, margin)
        if not problem and engine.manifest["ranks"][0].get("contiguous"):
            other = ReferenceEngine(engine.path, contiguous=True)
            problem, far = compare(other, prompt, logits, greedy, margin)
            tally.contiguous += 1
    tally.worst = max(tally.worst, far)
    tally.same[family] += not problem
    tally.split += len(engine.manifest["ranks"]) > 1
    if problem:
        tally.faults.append(f"{family} seed {seed}: {problem}\n  {split} {adapter} {case}")


@torch.no_grad()
def _truth(
    case: Case, seed: int, where: Path, adapter: dict[str, Any] | None
) -> tuple[list[int], Floats, list[int], list[float]]:
    """Prompt, its logits, the greedy continuation, and by how much each choice was won."""
    target = where / "model"
    model = make_model(case, seed)
    packed = pack_experts(model) if case.mxfp4 else {}
    save(deepcopy(model), case, target, packed)
    if not case.mxfp4:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            target, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        ).eval()
    if adapter is not None:
        model = _adapted(model, adapter, where / ADAPTER)
    vocab = case.config["vocab_size"]
    prompt = np.random.default_rng(seed).integers(3, vocab, size=PROMPT).tolist()
    logits = model(torch.tensor([prompt]), use_cache=False).logits[0].numpy()
    greedy, margins = [], []
    for _ in range(CONTINUATION):
        scores = model(torch.tensor([prompt + greedy]), use_cache=False).logits[0, -1]
        best = scores.topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        greedy.append(int(best.indices[0]))
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite")
    return prompt, logits, greedy, margins


def _adapted(model: torch.nn.Module, settings: dict[str, Any], target: Path) -> torch.nn.Module:
    """The model under an adapter as if it were trained, read as it was saved; nothing is merged."""
    import peft  # type: ignore[import-not-found]

    # Patterns are saved in another order, and the first one that fits counts.
    original = deepcopy(model)
    changed = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, value in changed.named_parameters():
        if value.requires_grad:
            spread = 0.1 if "lora_" in name else 0.05
            value.add_(spread * torch.randn_like(value))
    changed.save_pretrained(target)
    return peft.PeftModel.from_pretrained(original, target).eval()


def _engine(case: Case, where: Path, page: int, split: Parallelism) -> ReferenceEngine:
    adapter = where / ADAPTER
    merged = [Adapter(source=LocalSource(path=str(adapter), name=ADAPTER))]
    spec = BuildSpec(
        source=LocalSource(path=str(where / "model"), name="fuzz"),
        adapters=tuple(merged if adapter.exists() else ()),
        shapes=Shapes(kv_page_size=page, max_sequence_length=case.length, max_batch_size=2),
        parallelism=split,
    )
    places = Places(where / "store", where / "cache")
    done = build(spec, places, Tracker(lambda _: None))
    return ReferenceEngine(places.store / done.path)  # type: ignore[operator]


def compare(
    engine: ReferenceEngine,
    prompt: list[int],
    logits: Floats,
    greedy: list[int],
    margins: list[float],
) -> tuple[str, float]:
    """What differs, empty if nothing does; and the largest distance of a logit."""
    whole = engine.batch(1, capacity=112).feed([prompt])[0]
    batch = engine.batch(1, capacity=112)
    cuts = [0, 7, 8, 40, len(prompt)]
    parts = [batch.feed([prompt[a:b]], len(prompt))[0] for a, b in pairwise(cuts)]
    far = max(float(np.abs(found - logits).max()) for found in (whole, np.concatenate(parts)))
    if far > CLOSE:
        return f"logits differ by {far:.2e} (scale {np.abs(logits).max():.1f})", far
    scores = parts[-1][-1]
    for place, (token, margin) in enumerate(zip(greedy, margins, strict=True)):
        if margin < CLEAR:
            break
        if int(scores.argmax()) != token:
            return f"token {place} is {int(scores.argmax())}, not {token}", far
        scores = batch.feed([[token]])[0][-1]
    return "", far


if __name__ == "__main__":
    sys.exit(main())
