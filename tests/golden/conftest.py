from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import BuildSpec, LocalSource, Shapes
from tests.golden.reference import ReferenceEngine

EngineOf = Callable[[Path, int], ReferenceEngine]


@pytest.fixture(scope="session")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> EngineOf:
    """Build the engine of a checkpoint with a page size, once."""
    root = tmp_path_factory.mktemp("golden")

    @cache
    def make(checkpoint: Path, page: int) -> ReferenceEngine:
        source = LocalSource(path=str(checkpoint), name=checkpoint.name)
        spec = BuildSpec(source=source, shapes=Shapes(kv_page_size=page))
        places = Places(root / "store", root / "cache")
        done = build(spec, places, Tracker(lambda _: None))
        return ReferenceEngine(places.store / done.path)

    return make
