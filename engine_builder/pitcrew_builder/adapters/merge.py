"""Adapters as a pass over a graph: recipes of weights grow by low-rank products, nodes stay."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.adapters.experts import Place, StackChange, is_stack, pairs_of, place_of
from pitcrew_builder.adapters.peft import (
    PREFIX,
    AdapterConfig,
    Change,
    change_of,
    check_plain,
    known_as,
    text_tensors,
)
from pitcrew_builder.checkpoint.config import parse_as, parse_object
from pitcrew_builder.checkpoint.directory import ADAPTER, Directory, read_tensors
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.checkpoint.wrapped import language_name
from pitcrew_builder.errors import CheckpointCorrupt, UnknownArchitecture
from pitcrew_builder.graph.ir import Graph, Weight
from pitcrew_builder.graph.recipe import (
    Entry,
    LowRank,
    Source,
    TensorRef,
    Transposed,
    map_tensors,
)
from pitcrew_builder.manifest import MergedAdapter


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter, read but for its numbers."""

    name: str
    weight: float
    """What its change is multiplied by."""
    config: AdapterConfig
    tensors: Mapping[str, TensorInfo]
    """By their names in the adapter's file."""
    number: int
    """Its place among the adapters of a build; keeps the names of their tensors apart."""

    def unique(self, tensor: str) -> str:
        """The name by which a recipe calls one of its tensors."""
        return f"adapter {self.number}: {tensor}"


def open_adapters(
    merged: Sequence[MergedAdapter], directories: Sequence[Directory]
) -> list[Adapter]:
    """Read configs and headers. Raises `CheckpointCorrupt` or `UnknownArchitecture`."""
    pairs = zip(merged, directories, strict=True)
    return [_open(known, directory, number) for number, (known, directory) in enumerate(pairs)]


def _open(known: MergedAdapter, directory: Directory, number: int) -> Adapter:
    document = parse_object(directory.read_small(ADAPTER.config), ADAPTER.config)
    check_plain(document, known.model, stacks=True)
    config = parse_as(AdapterConfig, document, ADAPTER.config)
    tensors = text_tensors(read_tensors(directory, ADAPTER))
    return Adapter(known.model, float(known.weight), config, tensors, number)


def tensors_of(adapters: Sequence[Adapter]) -> dict[str, TensorInfo]:
    """The tensors of all adapters, by the names that recipes use."""
    return {
        adapter.unique(name): info for adapter in adapters for name, info in adapter.tensors.items()
    }


def merge(graph: Graph, adapters: Sequence[Adapter]) -> Graph:
    """`graph` with every adapter's change in its weights, the first one innermost."""
    for adapter in adapters:
        changes = _Changes(adapter)
        graph = replace(graph, weights=tuple(changes.apply(item) for item in graph.weights))
    return graph


def check_adapters(graph: Graph, adapters: Sequence[Adapter]) -> None:
    """Refuse adapters for another network. `graph` is the whole one, not yet merged."""
    refs = {known_as(ref.name): ref for weight in graph.weights for ref in weight.tensors}
    for adapter in adapters:
        changes = _Changes(adapter)
        if not changes.targets and not changes.stacks:
            raise CheckpointCorrupt(f"adapter '{adapter.name}' holds no tensors; copy it again")
        changes.check_stacks(graph)
        strangers = [name for name in changes.targets if name not in refs]
        if strangers:
            raise CheckpointCorrupt(
                f"adapter '{adapter.name}' changes {strangers[0]} and {len(strangers) - 1} more "
                f"tensors that this network does not have; use the checkpoint it was trained on"
            )
        for name in changes.targets:
            changes.check(refs[name])
        shared = sorted(changes.targets.keys() & _shared(graph))
        if shared:
            raise UnknownArchitecture(
                f"adapter '{adapter.name}' changes {shared[0]}, which is both the embedding and the "
                f"LM head here (tie_word_embeddings), and was trained for one of them; untie them "
                f"in the checkpoint first"
            )
        for name in changes.replaced:
            # A later adapter was trained on the tensor that this one takes away.
            del refs[name]


def _shared(graph: Graph) -> set[str]:
    """Tensors of weights that several nodes use."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    twice = (weight for weight in graph.weights if uses[weight.name] > 1)
    return {known_as(ref.name) for weight in twice for ref in weight.tensors}


class _Changes:
    """The tensors of one adapter, by what they change."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.targets: dict[str, dict[str, tuple[Change, TensorInfo]]] = {}
        self.stacks = {
            name: self._stack(name, pair) for name, pair in pairs_of(adapter.tensors).items()
        }
        for name, info in adapter.tensors.items():
            if is_stack(name):
                continue
            change = change_of(name)
            self.targets.setdefault(known_as(change.target), {})[change.role] = (change, info)

    @property
    def replaced(self) -> list[str]:
        """The tensors of which nothing is left."""
        return [name for name, roles in self.targets.items() if "whole" in roles]

    def apply(self, weight: Weight) -> Weight:
        """The weight with the adapter in it."""
        return replace(weight, parts=tuple(map_tensors(part, self._apply) for part in weight.parts))

    def check(self, ref: TensorRef) -> None:
        """Refuse tensors that lack their counterpart or have another size than `ref` implies."""
        roles = self.targets[known_as(ref.name)]
        if ("A" in roles) != ("B" in roles):
            self._refuse(ref, f"has {', '.join(sorted(roles))} where A and B belong together")
        if "whole" in roles and roles["whole"][1].shape != ref.shape:
            self._refuse(ref, f"has the shape {list(roles['whole'][1].shape)}")
        changed = self._change(ref)
        if isinstance(changed, LowRank) and not _fits(changed, ref):
            shapes = [list(roles[role][1].shape) for role in "AB"]
            self._refuse(ref, f"has A {shapes[0]} and B {shapes[1]}")

    def check_stacks(self, graph: Graph) -> None:
        """Refuse pairs that belong to no stack of the whole `graph`, or not to each of its experts."""
        experts: dict[str, set[int]] = defaultdict(set)
        changed: dict[str, tuple[str, int]] = {}

        def note(matrix: TensorRef | Entry) -> Source:
            if (found := place_of(matrix)) is not None:
                experts[found.module].add(found.expert)
            changed.update({name: (at.module, r) for name, at, r in self._of_stacks(matrix)})
            return matrix

        for weight in graph.weights:
            for part in weight.parts:
                map_tensors(part, note)
        for name, change in self.stacks.items():
            module, rank = changed.get(name, ("", 1))
            if change.down.shape[0] != rank * len(experts[module]):
                raise CheckpointCorrupt(
                    f"adapter '{self._adapter.name}': {name} has A {list(change.down.shape)} and B "
                    f"{list(change.up.shape)} for a stack of experts, and the network has none of "
                    f"that size whose weights are plain numbers; use the checkpoint it was trained on"
                )

    def _of_stacks(self, matrix: TensorRef | Entry) -> Iterator[tuple[str, Place, int]]:
        """The pairs that change an expert's matrix, with its place and their rank."""
        place = place_of(matrix) if self.stacks else None
        if place is None:
            return
        for name, change in self.stacks.items():
            bare = language_name(name.removeprefix(PREFIX).replace(".base_layer", ""))
            rank = change.rank(place, self._adapter.config)
            if bare == place.module and rank is not None:
                yield name, place, rank

    def _stack(self, name: str, pair: Mapping[str, TensorInfo]) -> StackChange:
        if pair.keys() != {"A", "B"}:
            raise CheckpointCorrupt(
                f"adapter '{self._adapter.name}': {name} has lora_{', '.join(pair)} alone, and A and "
                f"B belong together; copy it again"
            )
        return StackChange(self._ref(pair["A"]), self._ref(pair["B"]))

    def _apply(self, matrix: TensorRef | Entry) -> Source:
        found = next(self._of_stacks(matrix), None)
        if found is None:
            return matrix if isinstance(matrix, Entry) else self._change(matrix)
        name, place, rank = found
        factor = self._adapter.config.scale(place.name, rank) * self._adapter.weight
        return self.stacks[name].apply(matrix, place, rank, factor)

    def _change(self, ref: TensorRef) -> Source:
        roles = self.targets.get(known_as(ref.name), {})
        base = self._ref(roles["whole"][1]) if "whole" in roles else ref
        if "A" not in roles:
            return base
        (change, first), (_, second) = roles["A"], roles["B"]
        up, down = self._ref(second), self._ref(first)
        config = self._adapter.config
        factor = config.scale(config.known_to_patterns(change.target), first.shape[0])
        scale = factor * self._adapter.weight
        if change.embedding:
            return LowRank(base, Transposed(down), Transposed(up), scale)
        return LowRank(base, up, down, scale)

    def _ref(self, info: TensorInfo) -> TensorRef:
        return TensorRef(self._adapter.unique(info.name), info.shape)

    def _refuse(self, ref: TensorRef, problem: str) -> None:
        raise CheckpointCorrupt(
            f"adapter '{self._adapter.name}' for {ref.name} {list(ref.shape)} {problem}; use the "
            f"checkpoint it was trained on"
        )


def _fits(change: LowRank, ref: TensorRef) -> bool:
    up, down = change.up.shape, change.down.shape
    return len(up) == len(down) == 2 and up[1] == down[0] and (up[0], down[1]) == ref.shape
