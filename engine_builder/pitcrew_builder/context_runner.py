"""Drives the form of a network that reads contexts, one sequence at a time; see `PagedRunner`."""

import numpy as np

from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.network import Network
from pitcrew_builder.paged_runner import Floats
from pitcrew_builder.pools import Contexts


class ContextRunner:
    """One sequence of at most `capacity` tokens."""

    def __init__(self, network: Network, facts: ModelFacts, capacity: int) -> None:
        self._network = network
        self._contexts = Contexts(facts, 1, capacity)
        self._length = 0

    def extend(self, tokens: list[int]) -> Floats:
        """Append tokens and return the logits [len(tokens), vocab] after each."""
        start, count = self._length, len(tokens)
        outputs = self._network.run(
            {
                "input_ids": np.array([tokens], dtype=np.int64),
                "positions": np.arange(start, start + count, dtype=np.int64)[None],
                "context_lengths": np.array([start], dtype=np.int64),
                "logit_indices": np.arange(count, dtype=np.int64)[None],
                **self._contexts.arrays,
            }
        )
        self._contexts.take(outputs)
        self._length += count
        logits: Floats = outputs["logits"][0]
        return logits
