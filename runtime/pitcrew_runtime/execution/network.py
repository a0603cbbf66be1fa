"""The network of an engine, as an executor sees it: a session, a plan on a GPU, or ranks in processes of
their own."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.execution.packing import Packed


class Network(Protocol):
    """Computes logits over KV pools of its own."""

    @property
    def pages(self) -> int:
        """Pages in the pools, numbered from 0."""
        ...

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        ...

    @property
    def wanted(self) -> int:
        """The most positions of a row whose logits one run gives."""
        ...

    @property
    def fault(self) -> str | None:
        """Why it will never compute anything again; None while it can."""
        ...

    def close(self) -> None:
        """End what it runs in, if that is not this process."""
        ...

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Make the second page of each pair what the first is."""
        ...

    def hold(self, adapters: Mapping[int, Adapter]) -> None:
        """See to it that each slot has its adapter."""
        ...

    def run(self, packed: Packed) -> NDArray[np.float32]:
        """Write the new keys and values into the pools; logits [B, K, vocabulary], which the next run
        may overwrite.

        Raises `ExecutorBroken` where nothing can be computed any more, and anything where only this
        could not be.
        """
        ...

    def likeliest(self, packed: Packed) -> NDArray[np.int64]:
        """The same, of which only the token of the best logit is told, the first of equal ones: [B, K];
        -1 where the best logit is not finite. Raises as `run`.
        """
        ...
