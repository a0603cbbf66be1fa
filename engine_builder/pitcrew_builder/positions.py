"""Where the positions of a text begin, which `ModelFacts.short_texts` lets depend on its length.

Proofs take prompts as they will be served, which are short ones mostly. That long texts are computed
as well is seen on the same prompts `as_long`.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.manifest import ModelFacts

Integers: TypeAlias = npt.NDArray[np.int64]


def first_positions(facts: ModelFacts, lengths: Integers) -> Integers:
    """What stands for position 0 in texts of `lengths` [...] tokens."""
    short = facts.short_texts
    if short is None:
        return np.zeros_like(lengths)
    return np.where(lengths <= short.up_to, short.first_position, 0)


def as_long(facts: ModelFacts) -> ModelFacts:
    """The same network for a caller that takes every text for a long one."""
    return facts.model_copy(update={"short_texts": None})
