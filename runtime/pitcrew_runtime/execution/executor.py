"""Computes the rows of a step on a network: lays them side by side and picks what follows."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.executor import Chosen, Work
from pitcrew_runtime.core.request import Sampled
from pitcrew_runtime.execution.choosing import are_plain, choose, choose_likeliest
from pitcrew_runtime.execution.grouping import group
from pitcrew_runtime.execution.network import Network
from pitcrew_runtime.execution.packing import Packed, pack
from pitcrew_runtime.execution.said import Sayings
from pitcrew_runtime.execution.scoring import TOGETHER, pieces, scores_of

N = TypeVar("N", bound=np.generic)


class NetworkExecutor:
    """An `Executor` over one network. Knows nothing of requests or scheduling."""

    def __init__(self, network: Network, short_first: int = 0) -> None:
        """`short_first`: where positions of short texts begin, see `ModelFacts.short_texts`."""
        self._network = network
        self._short_first = short_first
        self._work = Work()
        self._sayings = Sayings()

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
        plain = [index for index, row in enumerate(batch.rows) if not row.scores]
        for places in group([batch.rows[index] for index in plain]):
            indices = [plain[place] for place in places]
            rows = [batch.rows[index] for index in indices]
            for index, chosen in zip(indices, self._chosen(rows), strict=True):
                results[index] = chosen
        for index, row in enumerate(batch.rows):
            if row.scores:
                results[index] = self._score(row)
        self._sayings.keep(batch.rows)
        return results

    def _chosen(self, rows: Sequence[Row]) -> Sequence[Chosen]:
        """What follows rows of one run."""
        if are_plain(rows):
            return choose_likeliest(rows, self._timed(self._network.likeliest, rows))
        return choose(rows, self._timed(self._network.run, rows), self._sayings)

    def _score(self, row: Row) -> Chosen:
        """What follows a row whose tokens are scored, computed by itself."""
        found: list[Sampled] = []
        for piece in pieces(row, min(TOGETHER, self._network.wanted)):
            logits = self._timed(self._network.run, [piece])
            found += scores_of(piece, logits[0])
        return [*found, *choose([row], logits[:, -1:], self._sayings)[0]]

    def _timed(self, run: Callable[[Packed], NDArray[N]], rows: Sequence[Row]) -> NDArray[N]:
        """What a run of the network gives, for the positions that `pack` asks for."""
        packed = pack(rows, self._network.page_size, self._short_first)
        begin = time.perf_counter()
        found = run(packed)
        self._work.seconds += time.perf_counter() - begin
        computed, wanted = packed.inputs["input_ids"].size, len(packed.take)
        self._work.runs += 1
        self._work.positions += computed
        self._work.padding += computed - wanted
        return found
