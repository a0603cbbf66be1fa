from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import BuildSpec, LocalSource, Parallelism, Shapes
from tests.golden.cases import CASES
from tests.golden.reference import ReferenceEngine

SOLE = Parallelism()


class EngineOf(Protocol):
    """Builds the engine of a checkpoint with a page size and a split, once."""

    def __call__(
        self, checkpoint: Path, page: int, split: Parallelism = SOLE
    ) -> ReferenceEngine: ...


@pytest.fixture(scope="session")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> EngineOf:
    root = tmp_path_factory.mktemp("golden")

    @cache
    def make(checkpoint: Path, page: int, split: Parallelism = SOLE) -> ReferenceEngine:
        source = LocalSource(path=str(checkpoint), name=checkpoint.name)
        case = CASES.get(checkpoint.name)
        length = case.length if case else None
        spec = BuildSpec(
            source=source,
            parallelism=split,
            shapes=Shapes(kv_page_size=page, max_sequence_length=length),
        )
        places = Places(root / "store", root / "cache")
        done = build(spec, places, Tracker(lambda _: None))
        return ReferenceEngine(places.store / done.path)

    return make
