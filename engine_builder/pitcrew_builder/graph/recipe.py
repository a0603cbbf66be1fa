"""Recipes: how the elements of a weight are made from tensors of the checkpoint.

A recipe is a small expression over tensors, never bytes. It says which part of which tensor stands
where, so that fused projections, stacks of experts, slices for ranks, merged adapters and packed
formats are all one thing to those who place and stream weights. `checkpoint.assemble` reads them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]

MXFP4_BLOCK = 32
"""Numbers that share one scale in MXFP4."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A checkpoint tensor as it is, with the shape that the config implies."""

    name: str
    shape: Shape
    packed: tuple[str, ...] = ()
    """The types that a packed format may be stored in; empty where the elements are numbers."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a tensor's first axis, such as one expert of a stack: [n, ...] to [...]."""

    source: TensorRef
    index: int

    @property
    def shape(self) -> Shape:
        """The shape without its first axis."""
        return self.source.shape[1:]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `start`, `start + step`, ... below `stop`, of the first axis: one half of a fused pair."""

    source: "Source"
    start: int
    stop: int
    step: int = 1

    @property
    def shape(self) -> Shape:
        """The shape with fewer rows."""
        return (len(range(self.start, self.stop, self.step)), *self.source.shape[1:])


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns `start`, `start + step`, ... below `stop` of a matrix."""

    source: "Source"
    start: int
    stop: int
    step: int = 1

    @property
    def shape(self) -> Shape:
        """The shape with fewer columns."""
        return (self.source.shape[0], len(range(self.start, self.stop, self.step)))


@dataclass(frozen=True, slots=True)
class Transposed:
    """A matrix turned over."""

    source: "Source"

    @property
    def shape(self) -> Shape:
        """The two axes, swapped."""
        return self.source.shape[::-1]


@dataclass(frozen=True, slots=True)
class Plus:
    """The same number added to every element."""

    source: "Source"
    amount: float

    @property
    def shape(self) -> Shape:
        """The shape of the source."""
        return self.source.shape


@dataclass(frozen=True, slots=True)
class LowRank:
    """A matrix [out, in] plus `scale` times `up` [out, r] times `down` [r, in]."""

    source: "Source"
    up: "Source"
    down: "Source"
    scale: float

    @property
    def shape(self) -> Shape:
        """The shape of the source."""
        return self.source.shape


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """One entry of a stack of MXFP4 matrices (OCP Microscaling Formats 1.0), as [rows, columns].

    `blocks` [n, rows, columns / 32, 16] holds two 4-bit numbers a byte, the even one low; `scales`
    [n, rows, columns / 32] holds powers of two, biased by 127.
    """

    blocks: TensorRef
    scales: TensorRef
    index: int

    @property
    def shape(self) -> Shape:
        """Rows and columns of the decoded matrix."""
        _, rows, groups, _ = self.blocks.shape
        return (rows, groups * MXFP4_BLOCK)


class Packing(StrEnum):
    """How integer codes share 32-bit words, lowest bits first; n codes in a word."""

    AWQ = "awq"
    """Codes [inputs, outputs / n], the outputs of a word in the order 0 2 4 6 1 3 5 7."""
    GPTQ = "gptq"
    """Codes [inputs / n, outputs]. Zero points are stored less one."""
    GPTQ_V2 = "gptq_v2"
    """The same, with zero points as they are."""
    COMPRESSED = "compressed"
    """Codes [outputs, inputs / n], zero points [outputs / n, groups]."""


@dataclass(frozen=True, slots=True)
class PackedIntegers:
    """A matrix [outputs, inputs] of integers: (code - zero) * scale, both by output and group.

    Scales are [groups, outputs], of `Packing.COMPRESSED` [outputs, groups]; a group is a run of
    inputs, or what `groups` [inputs] says of each.
    """

    shape: Shape
    packing: Packing
    bits: int
    codes: TensorRef
    scales: TensorRef
    zeros: TensorRef | None
    """None where zero is the middle code."""
    groups: TensorRef | None

    @property
    def group_count(self) -> int:
        """Groups of inputs."""
        return self.scales.shape[1 if self.packing is Packing.COMPRESSED else 0]


@dataclass(frozen=True, slots=True)
class PackedFloats:
    """A matrix [outputs, inputs] of E4M3 numbers times a scale.

    `scales` has one number, one for each output, or one for each tile of `block` outputs and inputs.
    """

    codes: TensorRef
    scales: TensorRef
    block: tuple[int, int] | None
    input_scale: TensorRef | None
    """The matrix's input is rounded to E4M3 by this scale; None: it is not rounded."""

    @property
    def shape(self) -> Shape:
        """The shape of the codes."""
        return self.codes.shape


Packed: TypeAlias = PackedIntegers | PackedFloats
"""A matrix that was quantized before it came here."""

Source: TypeAlias = (
    TensorRef | Entry | Rows | Columns | Transposed | Plus | LowRank | Mxfp4 | Packed
)


def tensors_of(source: Source) -> Iterator[TensorRef]:
    """The checkpoint tensors that a recipe reads."""
    match source:
        case TensorRef():
            yield source
        case LowRank(base, up, down):
            for each in (base, up, down):
                yield from tensors_of(each)
        case Mxfp4(blocks, scales):
            yield from (blocks, scales)
        case PackedIntegers():
            yield from filter(None, (source.codes, source.scales, source.zeros, source.groups))
        case PackedFloats():
            yield from filter(None, (source.codes, source.scales, source.input_scale))
        case _:
            yield from tensors_of(source.source)


def is_exact(source: Source) -> bool:
    """Whether the elements are numbers of the tensors themselves, moved but not computed."""
    match source:
        case TensorRef():
            return not source.packed
        case Entry() | Rows() | Columns() | Transposed():
            return is_exact(source.source)
        case _:
            return False


def map_tensors(source: Source, change: Callable[[TensorRef | Entry], Source]) -> Source:
    """The recipe with other recipes in place of the tensors, and entries of stacks, that it changes.

    Packed matrices keep theirs.
    """
    match source:
        case TensorRef() | Entry():
            return change(source)
        case Mxfp4() | PackedIntegers() | PackedFloats():
            return source
        case _:
            return replace(source, source=map_tensors(source.source, change))


def reads_whole(source: Source) -> bool:
    """Whether a few rows of the recipe cost as much as all of them."""
    match source:
        case Transposed() | PackedIntegers() | PackedFloats():
            return True
        case TensorRef() | Mxfp4():
            return False
        case _:
            return reads_whole(source.source)


def cut(source: Source, parts: Mapping[int, range]) -> Source:
    """The given ranges of the first and second axis; a whole axis is left as it is."""
    rows, columns = parts.get(0), parts.get(1)
    if rows is not None and len(rows) < source.shape[0]:
        source = Rows(source, rows.start, rows.stop)
    if columns is not None and len(columns) < source.shape[1]:
        source = Columns(source, columns.start, columns.stop)
    return source


def packed_in(source: Source) -> Packed | None:
    """The packed matrix of which a recipe is a part, if it is."""
    match source:
        case PackedIntegers() | PackedFloats():
            return source
        case Rows() | Columns():
            return packed_in(source.source)
        case _:
            return None
