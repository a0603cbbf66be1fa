"""Room for adapters beside the weights: products get a low-rank companion that the caller fills.

`llm::Lora` adds B A x to the rows of each sequence, with the A and B of the slot that the sequence
names, so one step mixes adapters (Hu et al. 2021, "LoRA"; Chen et al. 2023, "Punica"). Its body
gathers them, which costs by the sequences of a step, not by the slots; a runtime with a kernel of
that name reads them where they lie. A slot of zeros changes no bit.

The pass stands between drawing and quantization: matrices may be split, merged or made narrow, the
companion reads the same rows and adds to the same sums. Where a matrix is split by its inputs, so is
A, and the sum over the ranks that follows is that of both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pitcrew_builder.blocks.plugin import PLUGIN
from pitcrew_builder.blocks.step import BATCH
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.graph.body import given_ints, ints, node, values
from pitcrew_builder.graph.ir import ElementType, Function, Graph, Node, Port, Value
from pitcrew_builder.graph.recipe import (
    Columns,
    LowRank,
    PackedFloats,
    PackedIntegers,
    Rows,
    Shape,
    Source,
    TensorRef,
)
from pitcrew_builder.manifest import ADAPTER_SLOTS, LoraTarget
from pitcrew_builder.quantize.sites import Site, sites
from pitcrew_builder.spec import Lora

SLOTS = "slots"
"""The dynamic dimension of stacked adapters."""

LORA = Function(
    domain="llm",
    name="Lora",
    inputs=values("plain rows down up slots"),
    outputs=values("adapted"),
    attributes=("inputs", *PLUGIN),
    nodes=(
        ints("rest", -1),
        given_ints("width", "inputs"),
        node("Shape", "slots", "batch"),
        node("Concat", "batch rest width", "by_sequence", axis=0),
        node("Reshape", "rows by_sequence", "rows_by_sequence"),
        node("Gather", "down slots", "own_down", axis=0),
        node("Gather", "up slots", "own_up", axis=0),
        node("Transpose", "own_down", "down_columns", perm=(0, 2, 1)),
        node("Transpose", "own_up", "up_columns", perm=(0, 2, 1)),
        node("MatMul", "rows_by_sequence down_columns", "inner"),
        node("MatMul", "inner up_columns", "change_by_sequence"),
        node("Shape", "plain", "flat"),
        node("Reshape", "change_by_sequence flat", "change"),
        node("Add", "plain change", "adapted"),
    ),
)
"""`plain` [B * S, outputs] plus, for the rows [B * S, inputs] of each sequence, up (down x).

`down` is [slots, R, inputs], `up` [slots, outputs, R], `slots` int64 [B].
"""


@dataclass(frozen=True, slots=True)
class Slotted:
    """A graph that takes adapters, and what they may change of it."""

    graph: Graph
    targets: tuple[LoraTarget, ...]

    def elements(self, wanted: Lora) -> int:
        """Numbers in the stacks of a runtime that has every slot."""
        across = sum(target.inputs + target.outputs for target in self.targets)
        return wanted.numbers * across


def with_slots(graph: Graph, wanted: Lora | None) -> Slotted:
    """`graph` with a companion to every product that adapters may change."""
    if wanted is None:
        return Slotted(graph, ())
    found = list(_targets(graph, wanted))
    adapted = {site.node.name: _adapted(site, target) for site, target in found}
    nodes = (new for old in graph.nodes for new in adapted.get(old.name, [old]))
    targets = tuple(target for _, target in found)
    slotted = replace(
        graph,
        inputs=(*graph.inputs, *_ports(targets, wanted.max_rank)),
        nodes=tuple(nodes),
        functions=(*graph.functions, LORA),
    )
    return Slotted(slotted, targets)


def check_targets(graph: Graph, wanted: Lora | None) -> None:
    """Refuse targets that the network does not have. `graph` is the whole one."""
    if wanted is None:
        return
    known = sorted({_name(target) for _, target in _targets(graph, Lora())})
    if not known:
        raise InvalidSpec(
            "lora: no linear map of this network takes adapters; leave lora out, or merge them "
            "when the engine is built (adapters)"
        )
    unknown = [name for name in wanted.target_modules if name not in known]
    if unknown:
        raise InvalidSpec(
            f"lora.targetModules names {', '.join(unknown)}, which no layer of this network has or "
            f"which takes no adapter; choose from {', '.join(known)}"
        )


def _targets(graph: Graph, wanted: Lora) -> Iterator[tuple[Site, LoraTarget]]:
    """The products that adapters may change, in graph order."""
    for site in sites(graph):
        target = _target(site)
        if target and (not wanted.target_modules or _name(target) in wanted.target_modules):
            yield site, target


def _name(target: LoraTarget) -> str:
    """What PEFT's `target_modules` calls it."""
    return target.module.rpartition(".")[2]


def _target(site: Site) -> LoraTarget | None:
    """None where the matrix is not a plain part of one of the checkpoint's."""
    weight = site.weight
    place = _place(weight.parts[0]) if len(weight.parts) == 1 and not weight.stacked else None
    if place is None:
        return None
    return LoraTarget(
        name=weight.name.removesuffix(".weight"),
        module=place.tensor.rpartition(".")[0],
        shape=place.shape,
        first_output=place.rows.start,
        outputs=len(place.rows),
        first_input=place.columns.start,
        inputs=len(place.columns),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """A rectangle of a checkpoint's matrix [outputs, inputs]."""

    tensor: str
    shape: tuple[int, int]
    rows: range
    columns: range

    @classmethod
    def whole(cls, tensor: TensorRef, shape: Shape) -> "_Place":
        """All of the matrix that the tensor holds, packed or not."""
        outputs, inputs = shape
        return cls(tensor.name, (outputs, inputs), range(outputs), range(inputs))


def _place(source: Source) -> _Place | None:
    match source:
        case TensorRef():
            return _Place.whole(source, source.shape)
        case PackedIntegers() | PackedFloats():
            return _Place.whole(source.codes, source.shape)
        case Rows(inner, start, stop, 1):
            place = _place(inner)
            return place and replace(place, rows=place.rows[start:stop])
        case Columns(inner, start, stop):
            place = _place(inner)
            return place and replace(place, columns=place.columns[start:stop])
        case LowRank(inner):
            return _place(inner)
        case _:
            return None


def _ports(targets: tuple[LoraTarget, ...], rank: int) -> Iterator[Port]:
    yield Port(Value(ADAPTER_SLOTS), ElementType.INT64, (BATCH,))
    for target in targets:
        kind = ElementType.FLOAT32
        yield Port(Value(target.down), kind, (SLOTS, rank, target.inputs))
        yield Port(Value(target.up), kind, (SLOTS, target.outputs, rank))


def _adapted(site: Site, target: LoraTarget) -> list[Node]:
    """The product under another name, and the node that gives its result."""
    product, name = site.node, f"{site.node.name}/lora"
    plain = Value(f"{product.outputs[0]}/plain")
    operands = map(Value, (target.down, target.up, ADAPTER_SLOTS))
    return [
        replace(product, outputs=(plain,)),
        Node(
            LORA.name,
            name,
            (plain, site.rows, *operands),
            product.outputs,
            (("inputs", (target.inputs,)), *PLUGIN.items()),
            LORA.domain,
        ),
    ]
