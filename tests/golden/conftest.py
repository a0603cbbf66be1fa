import json
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import (
    BuildSpec,
    CacheFormat,
    LocalSource,
    Parallelism,
    Prompts,
    Proof,
    Quantization,
    Shapes,
)
from tests.golden.cases import CASES
from tests.golden.reference import ReferenceEngine

SOLE = Parallelism()
SAMPLE = Path(__file__).parents[2] / "samples" / "models" / "tiny-kjv"
HELD_OUT = [
    document[:400]
    for document in (SAMPLE / "heldout-text.txt").read_text().split("\n\f\n")
    if len(document) > 400
]
CALIBRATION, PROOF = HELD_OUT[:6], HELD_OUT[6:8]
"""What narrow caches of the sample model are calibrated on and proven with."""

SHORT = 112
"""Tokens that their engines, and so their calibration, go up to."""


class EngineOf(Protocol):
    """Builds the engine of a checkpoint with a page size, a split and a cache, once."""

    def __call__(
        self,
        checkpoint: Path,
        page: int,
        split: Parallelism = SOLE,
        kv_cache: CacheFormat | None = None,
    ) -> ReferenceEngine: ...


@pytest.fixture(scope="session")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> EngineOf:
    root = tmp_path_factory.mktemp("golden")

    @cache
    def make(
        checkpoint: Path,
        page: int,
        split: Parallelism = SOLE,
        kv_cache: CacheFormat | None = None,
    ) -> ReferenceEngine:
        source = LocalSource(path=str(checkpoint), name=checkpoint.name)
        case = CASES.get(checkpoint.name)
        length = case.length if case else None
        spec = BuildSpec(
            source=source,
            parallelism=split,
            shapes=Shapes(kv_page_size=page, max_sequence_length=length)
            if kv_cache is None
            # A proof takes all shapes that are served; few of them do here.
            else Shapes(kv_page_size=page, max_sequence_length=SHORT, max_batch_size=1),
            **_narrow(root, kv_cache),
        )
        places = Places(root / "store", root / "cache")
        done = build(spec, places, Tracker(lambda _: None))
        return ReferenceEngine(places.store / done.path)

    return make


def _narrow(root: Path, kv_cache: CacheFormat | None) -> dict[str, Quantization | Proof]:
    if kv_cache is None:
        return {}
    for name, texts in (("calibration", CALIBRATION), ("proof", PROOF)):
        lines = (json.dumps({"text": text}) for text in texts)
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    calibration = Prompts(path=str(root / "calibration.jsonl"))
    return {
        "quantization": Quantization(kv_cache=kv_cache, calibration=calibration),
        "proof": Proof(prompts=Prompts(path=str(root / "proof.jsonl"))),
    }
