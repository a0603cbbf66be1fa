"""What the engine asks of whatever computes: a CPU session today, a GPU plan behind the same door."""

from collections.abc import Sequence
from typing import Protocol

from pitcrew_runtime.core.batch import StepBatch
from pitcrew_runtime.core.request import Sampled


class Executor(Protocol):
    """Computes batches over a pool of KV pages that it owns."""

    @property
    def pages(self) -> int:
        """Pages in the pool, numbered from 0."""

    def execute(self, batch: StepBatch) -> Sequence[Sampled | None]:
        """Write each row's keys and values into its pages and pick its next token.

        Returns one result per row, None where the row has no sampling. May raise anything; then
        nothing is assumed to be computed, and the same rows may come again.
        """
