"""What a site's codes will take, known from recipes alone: for plans, and to choose what can be kept."""

import numpy as np

from pitcrew_builder.checkpoint.coded import Indices
from pitcrew_builder.graph.ir import ElementType, Value, Weight
from pitcrew_builder.graph.recipe import (
    Columns,
    PackedFloats,
    PackedIntegers,
    Source,
    TensorRef,
    packed_in,
)
from pitcrew_builder.manifest import QuantizationRecipe
from pitcrew_builder.quantize.arrange import LEAST, block_of
from pitcrew_builder.quantize.grid import TYPES, grid_for


def stored(weight: Weight, recipe: QuantizationRecipe, *, head: bool = False) -> tuple[Weight, ...]:
    """The weights that take the place of one, or that one where it stays; `head`: of the LM head.

    Of matrices whose order the checkpoint alone knows, a rank's part may take a little more.
    """
    form = recipe.head if head else recipe.weights
    kind = TYPES[form] if form else None
    groups = _groups(weight.parts[0], recipe, head=head)
    if kind is None or groups is None:
        return (weight,)
    sizes = np.unique(groups, return_counts=True)[1]
    block = block_of(sizes, kind)
    columns = len(groups) if block else int((-(-sizes // LEAST) * LEAST).sum())
    rows = weight.elements // weight.shape[-1]
    scales = _of_shape(f"{weight.name}/scales", (rows, columns // (block or LEAST)), weight.type)
    codes = _of_shape(f"{weight.name}/codes", (rows, columns), kind)
    if recipe.imported is None or not recipe.imported.zero_points:
        return codes, scales
    return codes, scales, _of_shape(f"{weight.name}/zeros", scales.shape, weight.type)


def is_in_blocks(weight: Weight) -> bool:
    """Whether packed matrices lie in blocks as they are, without their inputs being moved."""
    packed = [packed_in(part) for part in weight.parts]
    if any(isinstance(each, PackedIntegers) and each.groups for each in packed):
        return False
    found = packed[0]
    assert found is not None, "packed matrices alone"
    four_bits = isinstance(found, PackedIntegers) and found.bits == 4
    kind = ElementType.INT4 if four_bits else ElementType.INT8
    return block_of(np.unique(_own_groups(found), return_counts=True)[1], kind) is not None


def _groups(source: Source, recipe: QuantizationRecipe, *, head: bool) -> Indices | None:
    """The group of each input, [inputs]; None where the matrix stays as it is."""
    packed = packed_in(source)
    if isinstance(source, Columns):
        whole = _groups(source.source, recipe, head=head)
        return None if whole is None else whole[source.start : source.stop]
    if recipe.imported is not None:
        return None if packed is None else _own_groups(packed)
    grid = grid_for(recipe, source.shape[1], head=head)
    return None if grid is None else np.arange(source.shape[1]) // grid.block


def _own_groups(packed: PackedIntegers | PackedFloats) -> Indices:
    inputs = packed.shape[1]
    if isinstance(packed, PackedFloats):
        return np.arange(inputs) // (packed.block[1] if packed.block else inputs)
    return np.arange(inputs) // -(-inputs // packed.group_count)


def _of_shape(name: str, shape: tuple[int, ...], kind: ElementType) -> Weight:
    return Weight(Value(name), (TensorRef(name, shape),), type=kind)
