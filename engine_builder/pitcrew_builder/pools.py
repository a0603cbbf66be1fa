"""What one network remembers of its sequences, on the host, for proofs: KV pools or contexts."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.manifest import ModelFacts

Tensor: TypeAlias = npt.NDArray[Any]


class Pools:
    """`arrays` by the graph's names, each [pages, page, kv_heads, head_dim] of `dtype`."""

    def __init__(self, facts: ModelFacts, dtype: np.dtype[Any], pages: int, page: int) -> None:
        shape = (pages, page, facts.kv_heads, facts.head_dim)
        self.arrays = {
            f"{kind}_pool.{layer}": np.zeros(shape, dtype)
            for kind in ("key", "value")
            for layer in range(facts.layers)
        }

    def store(
        self,
        outputs: Mapping[str, Tensor],
        rows: Tensor,
        columns: Tensor,
        pages: Tensor,
        offsets: Tensor,
    ) -> None:
        """Write the new tokens at [rows, columns] of [B, S] to `offsets` within `pages`.

        All four are vectors of one length.
        """
        for name, pool in self.arrays.items():
            kind, layer = name.split("_pool.")
            # Codes come as bytes of whatever type the runtime has for them.
            new = outputs[f"new_{kind}s.{layer}"].view(pool.dtype)
            pool[pages, offsets] = new[rows, columns]


class Contexts:
    """`arrays` by the names of the form with contexts, each [rows, kv_heads, capacity, head_dim]."""

    def __init__(self, facts: ModelFacts, rows: int, capacity: int) -> None:
        shape = (rows, facts.kv_heads, capacity, facts.head_dim)
        self.arrays: dict[str, Tensor] = {
            f"{kind}_context.{layer}": np.zeros(shape, np.float32)
            for kind in ("key", "value")
            for layer in range(facts.layers)
        }

    def take(self, outputs: Mapping[str, Tensor]) -> None:
        """Go on with the contexts as a run has left them."""
        self.arrays = {name: outputs[name.replace("_context.", "_grown.")] for name in self.arrays}
