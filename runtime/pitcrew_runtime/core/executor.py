"""What the engine asks of whatever computes: a CPU session today, a GPU plan behind the same door."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pitcrew_runtime.core.batch import StepBatch
from pitcrew_runtime.core.request import Sampled

Chosen = Sequence[Sampled]
"""The tokens that follow a row: none where it has no sampling, else one, and after it at most
`Row.lookahead` more, each of which is what the row's sampling picks after the ones before it. Before
them stand `Row.scores` tokens of the prompt with their log probabilities."""


@dataclass(slots=True)
class Work:
    """What an executor has done since the start."""

    seconds: float = 0.0
    """Time in which the network ran; in the rest the device had nothing to do."""
    runs: int = 0
    """Launches of the network; a step may take several."""
    positions: int = 0
    """Tokens computed, padding among them."""
    padding: int = 0
    """Those of them that were nobody's."""
    proposed: int = 0
    """Guesses at tokens to come."""
    accepted: int = 0
    """Guesses that were right."""
    fault: str | None = None
    """Why it computes nothing any more, once that is known; it may be known before it is asked."""


class ExecutorBroken(Exception):
    """The executor computes nothing any more."""


class Executor(Protocol):
    """Computes batches over a pool of KV pages that it owns."""

    @property
    def work(self) -> Work:
        """For metrics."""
        ...

    @property
    def pages(self) -> int:
        """Pages in the pool, numbered from 0."""
        ...

    def close(self) -> None:
        """Let go of what would outlive this process or stand in its way. Nothing follows."""
        ...

    def execute(self, batch: StepBatch) -> Sequence[Chosen]:
        """Copy pages, write each row's keys and values into its pages and pick what follows.

        Returns one result per row. Raises `ExecutorBroken` at the end of its life. May raise
        anything else; then nothing is assumed to be computed, and the same rows may come again, all
        or some of them: each must give the same tokens whatever stands beside it and however often
        it was tried.
        """
        ...
