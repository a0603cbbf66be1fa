"""Computes the rows of a step on a network: lays them side by side and picks what follows."""

import time
from collections.abc import Sequence

from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.executor import Chosen, Work
from pitcrew_runtime.execution.choosing import choose
from pitcrew_runtime.execution.grouping import group
from pitcrew_runtime.execution.network import Network
from pitcrew_runtime.execution.packing import pack


class NetworkExecutor:
    """An `Executor` over one network. Knows nothing of requests or scheduling."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._work = Work()

    @property
    def pages(self) -> int:
        """Pages in the pool."""
        return self._network.pages

    @property
    def work(self) -> Work:
        """For metrics."""
        self._work.fault = self._network.fault
        return self._work

    def close(self) -> None:
        """See `Executor`."""
        self._network.close()

    def execute(self, batch: StepBatch) -> list[Chosen]:
        """See `Executor`. Raises `NonFiniteLogits` and whatever the network raises."""
        self._network.copy(batch.copies)
        self._network.hold(batch.adapters)
        results: list[Chosen] = [()] * len(batch.rows)
        for indices in group(batch.rows):
            rows = [batch.rows[index] for index in indices]
            for index, chosen in zip(indices, self._run(rows), strict=True):
                results[index] = chosen
        return results

    def _run(self, rows: Sequence[Row]) -> Sequence[Chosen]:
        packed = pack(rows, self._network.page_size)
        begin = time.perf_counter()
        logits = self._network.run(packed)
        self._work.seconds += time.perf_counter() - begin
        computed, wanted = packed.inputs["input_ids"].size, len(packed.take)
        self._work.runs += 1
        self._work.positions += computed
        self._work.padding += computed - wanted
        return choose(rows, logits)
