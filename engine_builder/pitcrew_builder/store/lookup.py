"""Finding the engine that a person means."""

import re
from contextlib import suppress
from pathlib import Path

from pitcrew_builder.errors import EngineCorrupt, EngineNotFound, InvalidSpec
from pitcrew_builder.manifest import MANIFEST_NAME
from pitcrew_builder.store.local import Store
from pitcrew_builder.store.protocol import DEPTH, EngineStore, Kept

SHORTEST = 4
"""Hex digits of an id that may name an engine."""


def resolve(store: EngineStore, name: str) -> tuple[EngineStore, str]:
    """The store and the path of an engine, named by directory, path, tag, id or its beginning.

    Raises `EngineNotFound`, and `InvalidSpec` for a name that fits several.
    """
    directory = Path(name)
    if (directory / MANIFEST_NAME).is_file():
        return Store(directory.parent), directory.name
    if name.count("/") == DEPTH - 1:
        # A whole path needs no look at every engine of the store.
        with suppress(EngineCorrupt):
            store.open(name, digests=False)
            return store, name
    fitting = [kept.path for kept in store.engines() if fits(kept, name)]
    if not fitting:
        raise EngineNotFound(
            f"{store.location} holds no engine '{name}'; `pitcrew-engine ls` shows those it holds, "
            f"and --store names another place"
        )
    if len(fitting) > 1:
        raise InvalidSpec(
            f"'{name}' fits {len(fitting)} engines ({', '.join(fitting[:3])}); give more digits of "
            f"the id, or the whole path"
        )
    return store, fitting[0]


def fits(kept: Kept, name: str) -> bool:
    """Whether `name` may mean this engine."""
    if name in (kept.path, kept.manifest and kept.manifest.tag):
        return True
    if len(name) < SHORTEST or not re.fullmatch(r"[0-9a-f]+", name):
        return False
    ending = kept.path.rpartition("/")[2]
    whole = kept.manifest.engine_id if kept.manifest else ending
    return whole.startswith(name)
