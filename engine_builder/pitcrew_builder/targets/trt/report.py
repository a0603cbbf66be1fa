"""What the manifest tells of a plan: operators before, kernels after, and the bytes it was made of."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from pitcrew_builder.constants import nbytes
from pitcrew_builder.graph.ir import Graph, Literal, Weight
from pitcrew_builder.graph.parts import Part, layer_of, part_of
from pitcrew_builder.manifest import (
    BlockFusion,
    BlockKernels,
    KernelLaunch,
    PassedValue,
    PlanProfile,
    PlanReport,
    StoredBytes,
)
from pitcrew_builder.targets.trt import kernels
from pitcrew_builder.targets.trt.compiler import Compiled
from pitcrew_builder.targets.trt.kernels import Launch

_IDLE = frozenset({"Constant", "Identity"})
"""Operators that compute nothing."""


def plan_report(
    graph: Graph,
    profiles: tuple[PlanProfile, ...],
    compiled: Sequence[Compiled],
    plans: Sequence[Path],
    passed: tuple[PassedValue, ...] = (),
) -> PlanReport:
    """The report of the plans that a graph was compiled to for `profiles`, one after the other."""
    named = chain.from_iterable(each.layers for each in compiled)
    layers = Counter(map(kernels.block_of, filter(None, map(kernels.node_of, named))))
    programs = [kernels.programs(plan) for plan in plans]
    # Where one plan does not tell, the blocks of none would be whole.
    tell = all(len(each) == len(profiles) for each in programs)
    told = [
        kernels.by_block([launch for part in parts for launch in part])
        for parts in (zip(*programs, strict=True) if tell else ())
    ]
    return PlanReport(
        profiles=profiles,
        blocks=tuple(
            BlockFusion(
                block=block,
                operators=count,
                layers=layers[block],
                kernels=tuple(len(launches.get(block, ())) for launches in told),
            )
            for block, count in operators_by_block(graph).items()
        ),
        stored=tuple(stored_bytes(graph)),
        kernels=tuple(
            each
            for profile, launches in zip(profiles, told, strict=False)
            for each in _distinct(profile.name, launches)
        ),
        passed=passed,
    )


def operators_by_block(graph: Graph) -> Mapping[str, int]:
    """Nodes that compute something, by the outermost scope of their names, functions opened."""
    bodies = {
        (function.domain, function.name): sum(node.op not in _IDLE for node in function.nodes)
        for function in graph.functions
    }
    counts: Counter[str] = Counter()
    for node in (node for node in graph.nodes if node.op not in _IDLE):
        counts[kernels.block_of(node.name)] += bodies.get((node.domain, node.op), 1)
    return counts


def stored_bytes(graph: Graph) -> Iterator[StoredBytes]:
    """Bytes of the graph's constants by layer, class and element type, in the graph's order."""
    sums: Counter[tuple[int | None, Part, str]] = Counter()
    constants: Iterable[Weight | Literal] = chain(graph.weights, graph.literals)
    for item in constants:
        kind = item.type.value if isinstance(item, Weight) else item.array.dtype.name
        sums[layer_of(item.name), part_of(item.name), kind] += nbytes(item)
    for (layer, part, kind), amount in sums.items():
        yield StoredBytes(layer=layer, part=part, type=kind, bytes=amount)


def _distinct(profile: str, launches: Mapping[str, Sequence[Launch]]) -> Iterator[BlockKernels]:
    """Most layers are computed alike, so those stand together."""
    alike: dict[tuple[KernelLaunch, ...], list[str]] = {}
    for block, each in launches.items():
        alike.setdefault(tuple(_told(launch, block) for launch in each), []).append(block)
    for told, blocks in alike.items():
        yield BlockKernels(blocks=tuple(blocks), profile=profile, launches=told)


def _told(launch: Launch, block: str) -> KernelLaunch:
    nodes = (kernels.within(node, block) for node in launch.nodes)
    name = kernels.plain_name(launch.name, block)
    return KernelLaunch(kind=launch.kind, name=name, nodes=tuple(dict.fromkeys(nodes)))
