"""Two models' predictions of the same text, summed up token by token."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(slots=True)
class Tally:
    """Sums over predicted tokens; natural logarithms."""

    tokens: int = 0
    loss: float = 0.0
    reference_loss: float = 0.0
    agreed: int = 0
    divergence: float = 0.0

    def add(self, logits: Floats, reference: Floats, targets: npt.NDArray[Any]) -> None:
        """Count predictions [n, vocab] of `targets` [n]."""
        ours, theirs = log_softmax(logits), log_softmax(reference)
        rows = np.arange(len(targets))
        self.tokens += len(targets)
        self.loss -= float(ours[rows, targets].sum(dtype=np.float64))
        self.reference_loss -= float(theirs[rows, targets].sum(dtype=np.float64))
        self.agreed += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        self.divergence += float((np.exp(theirs) * (theirs - ours)).sum(dtype=np.float64))

    @property
    def perplexity(self) -> float:
        """e to the mean loss; infinite where that overflows."""
        return _exp(self.loss / self.tokens)

    @property
    def reference_perplexity(self) -> float:
        """The same of the reference."""
        return _exp(self.reference_loss / self.tokens)

    @property
    def top1_agreement(self) -> float:
        """The share of positions where both find the same token likeliest, 0 to 1."""
        return self.agreed / self.tokens

    @property
    def kl_divergence(self) -> float:
        """Mean nats from the reference's distribution to ours; rounding may not make it negative."""
        return max(0.0, self.divergence / self.tokens)


def log_softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normal: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normal


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < 700 else math.inf
