"""An adapter in memory, and what an engine leaves room for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import Manifest

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Room:
    """What adapters of an engine may change, and how many of them one step may mix."""

    max_adapters: int
    max_rank: int
    shapes: Mapping[str, tuple[int, int]]
    """Outputs and inputs of every linear map that takes adapters, by module."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self | None:
        """None for an engine that takes no adapters."""
        wanted = manifest.identity.lora
        if wanted is None:
            return None
        targets = (target for rank in manifest.ranks for target in rank.lora)
        shapes = {target.module: target.shape for target in targets}
        return cls(wanted.max_adapters, wanted.max_rank, shapes)


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change of one linear map: `up` [outputs, r] times `down` [r, inputs], scaling included."""

    down: Floats
    up: Floats

    @property
    def rank(self) -> int:
        """r, which may differ from map to map."""
        return len(self.down)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoraWeights:
    """A whole adapter."""

    identity: str
    """SHA-256 of the numbers themselves: what is in memory, whatever its files become."""
    changes: Mapping[str, LowRank]
    """By module."""

    @classmethod
    def of(cls, changes: Mapping[str, LowRank]) -> Self:
        """Name the adapter by its contents."""
        digest = hashlib.sha256()
        for module, change in sorted(changes.items()):
            digest.update(f"{module}:{change.rank};".encode())
            digest.update(np.ascontiguousarray(change.down).data)
            digest.update(np.ascontiguousarray(change.up).data)
        return cls(digest.hexdigest(), changes)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(change.down.nbytes + change.up.nbytes for change in self.changes.values())
