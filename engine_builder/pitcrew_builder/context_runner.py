"""Drives the form of a network that reads contexts, one sequence at a time; see `PagedRunner`."""

import numpy as np

from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.network import Network
from pitcrew_builder.paged_runner import Floats
from pitcrew_builder.proof.sequences import InContexts


class ContextRunner:
    """One sequence of at most `capacity` tokens, rotated as one of that length."""

    def __init__(self, network: Network, facts: ModelFacts, capacity: int) -> None:
        self._sequence = InContexts(network.run, facts, np.array([capacity]), capacity)
        self._length = 0

    def extend(self, tokens: list[int]) -> Floats:
        """Append tokens and return the logits [len(tokens), vocab] after each."""
        start, count = self._length, len(tokens)
        self._length += count
        ids, asked = np.array([tokens]), np.arange(count)
        logits: Floats = self._sequence.take(ids, np.array([start]), np.array([count]), asked)[0]
        return logits
