"""Changes of experts that PEFT keeps for a whole stack of them (`target_parameters`).

For the E matrices of one parameter, A is [E * r, inputs] and B [outputs, r * E]: expert e has the rows
of A from e * r on, and every E-th column of B from e on. The tensors are named by the module alone, so
their shapes tell the parameter: `gate_up_proj`, gates before ups, or `down_proj`. transformers makes
one parameter of them; a checkpoint has a tensor for each expert's matrix, or the stack itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pitcrew_builder.adapters.peft import AdapterConfig
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.graph.recipe import (
    Columns,
    Entry,
    LowRank,
    Rows,
    Source,
    TensorRef,
    Transposed,
)

_MATRIX = re.compile(r"(.+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_STACK = re.compile(r"(.+\.mlp\.experts)\.(gate_up|down)_proj")
_PLACES = {
    "gate_proj": ("gate_up_proj", 0),
    "w1": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
    "w3": ("gate_up_proj", 1),
    "down_proj": ("down_proj", 0),
    "w2": ("down_proj", 0),
}
"""An expert's matrix: the parameter that it is in, and which of the matrices there."""
_TOGETHER = {"gate_up_proj": 2, "down_proj": 1}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the matrix of one expert lies among those of all."""

    module: str
    parameter: str
    expert: int
    inputs: int
    outputs: int
    """Of the parameter's matrices."""
    rows: range
    """The outputs that are the matrix's own."""

    @property
    def name(self) -> str:
        """As PEFT's patterns call it."""
        return f"{self.module}.{self.parameter}"


@dataclass(frozen=True, slots=True)
class StackChange:
    """The pair of tensors for one parameter."""

    down: TensorRef
    """A [E * r, inputs]."""
    up: TensorRef
    """B [outputs, r * E]."""

    def rank(self, place: Place, config: AdapterConfig) -> int | None:
        """r, where the pair is one for the parameter of that place."""
        rank, width = config.rank(place.name), self.down.shape[0]
        wanted = ((width, place.inputs), (place.outputs, width))
        fits = (self.down.shape, self.up.shape) == wanted and width % rank == 0
        return rank if fits and place.expert < width // rank else None

    def apply(self, matrix: TensorRef | Entry, place: Place, rank: int, scale: float) -> Source:
        """The expert's matrix with its part of the change."""
        experts, first = self.down.shape[0] // rank, place.expert
        down = Rows(self.down, first * rank, (first + 1) * rank)
        up = Columns(self.up, first, rank * experts, experts)
        if isinstance(matrix, Entry):  # [inputs, outputs]
            return LowRank(matrix, Transposed(down), Transposed(up), scale)
        return LowRank(matrix, Rows(up, place.rows.start, place.rows.stop), down, scale)


def place_of(matrix: TensorRef | Entry) -> Place | None:
    """None for what is no expert's matrix."""
    if isinstance(matrix, Entry):
        found = _STACK.fullmatch(matrix.source.name)
        if found is None or len(matrix.shape) != 2:
            return None
        inputs, outputs = matrix.shape
        name = f"{found[2]}_proj"
        return Place(found[1], name, matrix.index, inputs, outputs, range(outputs))
    found = _MATRIX.fullmatch(matrix.name)
    if found is None or found[3] not in _PLACES:
        return None
    name, number = _PLACES[found[3]]
    own, inputs = matrix.shape
    rows = range(number * own, (number + 1) * own)
    module = f"{found[1]}.mlp.experts"
    return Place(module, name, int(found[2]), inputs, own * _TOGETHER[name], rows)


def is_stack(tensor: str) -> bool:
    """Whether an adapter's tensor of that name belongs to a stack."""
    return re.search(r"\.experts(\.base_layer)*\.lora_[AB]\.weight$", tensor) is not None


def pairs_of(tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, TensorInfo]]:
    """A and B by what stands before them in their names."""
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        if is_stack(name):
            before, _, role = name.removesuffix(".weight").rpartition(".lora_")
            pairs.setdefault(before, {})[role] = info
    return pairs
