"""A matrix as narrow codes and what gives them meaning, in the order of its own inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.graph.ir import ElementType

Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """[outputs, inputs]: (code - zero) * scale / multiplier."""

    type: ElementType
    codes: npt.NDArray[Any]
    """[outputs, inputs]: int8 for the integer types, else float8_e4m3fn."""
    scales: Floats
    """[outputs, groups]."""
    groups: Indices
    """[inputs]: the column of `scales` that counts for each input."""
    zeros: Floats | None = None
    """[outputs, groups], on the scale of the codes; None: 0."""
    multipliers: Floats | None = None
    """[inputs]: the codes are of the matrix times these."""
    input_scale: float | None = None
    """Set where the matrix's input is rounded to E4M3 by this scale."""

    def decoded(self) -> Floats:
        """What the codes stand for, [outputs, inputs]."""
        values = self.codes.astype(np.float32)
        if self.zeros is not None:
            values -= self.zeros[:, self.groups]
        values *= self.scales[:, self.groups]
        if self.multipliers is not None:
            values /= self.multipliers
        return values

    def part(self, outputs: slice, inputs: slice) -> "Coded":
        """Some outputs, of some inputs. Groups keep their numbers."""
        return replace(
            self,
            codes=self.codes[outputs, inputs],
            scales=self.scales[outputs],
            groups=self.groups[inputs],
            zeros=None if self.zeros is None else self.zeros[outputs],
            multipliers=None if self.multipliers is None else self.multipliers[inputs],
        )


def joined(parts: Sequence[Coded]) -> Coded:
    """One below the other: matrices of the same inputs, in the same groups."""
    first = parts[0]
    if len(parts) == 1:
        return first
    assert all((part.groups == first.groups).all() for part in parts), "grouped alike"
    zeros = None
    if any(part.zeros is not None for part in parts):
        zeros = np.concatenate([_zeros(part) for part in parts])
    rounded = [part.input_scale for part in parts if part.input_scale is not None]
    return replace(
        first,
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zeros=zeros,
        # One input is rounded once: by the scale that reaches the largest of what was seen.
        input_scale=max(rounded, default=None),
    )


def _zeros(part: Coded) -> Floats:
    return np.zeros_like(part.scales) if part.zeros is None else part.zeros
