"""Codes as a graph can hold them: in blocks of neighbouring inputs of one length, padded if need be.

Groups of inputs come in any shape: gathered from anywhere (GPTQ's act-order), cut by a rank's
border, a shorter one at the end. Blocks of a graph are runs of equal length. So inputs are brought
into the order of their groups, groups are divided by their greatest common divisor, and where that
is too short, filled up with inputs whose code means 0. Nothing is rounded anew.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pitcrew_builder.checkpoint.coded import Coded, Floats, Indices
from pitcrew_builder.graph.ir import ElementType

LEAST = 16
"""Inputs of a block at least."""

MOST = {ElementType.INT4: 128}
"""Inputs of a block at most, where longer ones make compilers unfold the matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class Arranged:
    """Codes [outputs, columns] in blocks of `block` columns."""

    codes: npt.NDArray[Any]
    scales: Floats
    """[outputs, columns / block]."""
    zeros: Floats | None
    """[outputs, columns / block]."""
    block: int
    order: Indices | None
    """[columns]: the input that each column is multiplied with; None: its own."""


def arrange(coded: Coded) -> Arranged:
    """The same matrix in blocks."""
    groups = coded.groups
    columns = np.argsort(groups, kind="stable")
    sizes = np.unique(groups, return_counts=True)[1]
    block = block_of(sizes, coded.type)
    filling = np.zeros(len(columns), bool)
    if block is None:
        columns, filling, sizes = _padded(columns, sizes)
        block = block_of(sizes, coded.type)
        assert block is not None, "padded to multiples of the least block"
    codes = coded.codes[:, columns]
    owners = groups[columns][::block]
    zeros = None if coded.zeros is None else coded.zeros[:, owners]
    if filling.any():
        codes[:, filling] = 0
        if coded.zeros is not None:
            codes[:, filling] = coded.zeros[:, groups[columns[filling]]].astype(codes.dtype)
    moved = len(columns) != len(groups) or bool((np.diff(columns) != 1).any())
    return Arranged(codes, coded.scales[:, owners], zeros, block, columns if moved else None)


def block_of(sizes: npt.NDArray[np.int64], kind: ElementType) -> int | None:
    """The longest block that divides groups of these sizes; None where all are too short."""
    block = math.gcd(*map(int, sizes))
    if kind in MOST:
        block = math.gcd(block, MOST[kind])
    whole = len(sizes) == 1 and kind not in MOST
    return block if whole or block >= LEAST else None


def _padded(
    columns: Indices, sizes: npt.NDArray[np.int64]
) -> tuple[Indices, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Groups filled up to multiples of the least block, by repeating their first column."""
    parts, filled = [], []
    for members in np.split(columns, np.cumsum(sizes)[:-1]):
        lacking = -len(members) % LEAST
        parts.append(np.append(members, np.repeat(members[:1], lacking)))
        filled.append(np.arange(len(parts[-1])) >= len(members))
    return np.concatenate(parts), np.concatenate(filled), -(-sizes // LEAST) * LEAST
