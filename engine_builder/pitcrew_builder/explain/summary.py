"""Figures that the terminal and the page both show, from a manifest and its graphs' anatomy."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from pitcrew_builder.explain.anatomy import Anatomy, Stored, dissect
from pitcrew_builder.graph.parts import Part, layer_of
from pitcrew_builder.manifest import (
    BlockFusion,
    BlockKernels,
    Manifest,
    PlanReport,
    QuantizedMatrix,
)
from pitcrew_builder.store.protocol import EngineStore

Key = TypeVar("Key")
Item = TypeVar("Item")

Grid = dict[str, dict[str, float]]
"""Layer -> matrix -> a figure."""


@dataclass(frozen=True, slots=True)
class Explained:
    """An engine and what its graphs hold, one anatomy a rank; none where ranks are plans."""

    manifest: Manifest
    ranks: tuple[Anatomy, ...]

    @property
    def stored(self) -> Iterator[Stored]:
        """Constants of all ranks; of a plan, those of the graph that it was compiled from."""
        for anatomy in self.ranks:
            yield from anatomy.tensors
        for item in (
            item for rank in self.manifest.ranks if rank.plan for item in rank.plan.stored
        ):
            yield Stored(item.part, Part(item.part), item.layer, item.type, item.bytes)

    @property
    def bytes_by_part(self) -> dict[Part, int]:
        """Bytes of each class over all ranks, the largest first."""
        return _summed((item.part, item.nbytes) for item in self.stored)

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes of each element type over all ranks, the largest first."""
        return _summed((item.type, item.nbytes) for item in self.stored)

    @property
    def bytes_by_layer(self) -> dict[str, dict[Part, int]]:
        """Layer -> class -> bytes over all ranks; what is in no layer goes by its class."""
        layers: dict[str, Counter[Part]] = defaultdict(Counter)
        for item in self.stored:
            label = str(item.part) if item.layer is None else f"layer {item.layer}"
            layers[label][item.part] += item.nbytes
        return dict(sorted(layers.items(), key=lambda pair: _order(pair[0])))


def explain(store: EngineStore, path: str) -> Explained:
    """Read an engine's manifest and the graphs that are ONNX. Raises `EngineCorrupt`."""
    manifest = store.open(path, digests=False)
    graphs = [rank.graph for rank in manifest.ranks if rank.graph and rank.graph.endswith(".onnx")]
    return Explained(manifest, tuple(dissect(store.read_file(path, name)) for name in graphs))


def blocks(anatomy: Anatomy) -> list[tuple[str, Counter[str]]]:
    """Blocks with their operators; neighbours that are alike are one, such as `layers.0-5`."""
    return _runs(anatomy.blocks.items())


def fusion(plan: PlanReport) -> list[tuple[str, BlockFusion]]:
    """Blocks with what became of them; neighbours that are alike are one."""
    nameless = {each.block: each.model_copy(update={"block": ""}) for each in plan.blocks}
    return _runs(nameless.items())


def kernel_share(block: BlockFusion) -> str:
    """Kernels as a share of operators, by profile."""
    shares = (f"{count / block.operators:.0%}" for count in block.kernels if block.operators)
    return " / ".join(shares) or "–"


def profile_rows(plan: PlanReport) -> list[tuple[str, str, str]]:
    """Profile, input and its shapes; numbered inputs of one shape are one, as `key_pool.0-5`."""
    rows: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for profile in plan.profiles:
        for name, shapes in profile.shapes.items():
            base, _, number = name.rpartition(".")
            told = " … ".join("×".join(map(str, shape)) for shape in shapes)
            numbered = number.isdigit()
            rows[profile.name, base if numbered else name, told] += [number] if numbered else []
    return [
        (profile, f"{name}.{_span(numbers)}" if numbers else name, told)
        for (profile, name, told), numbers in rows.items()
    ]


def named_blocks(kernels: BlockKernels) -> str:
    """The blocks that are computed alike, such as `layers.1-14`."""
    return ", ".join(name for name, _ in _runs((block, None) for block in kernels.blocks))


def usual_block(plan: PlanReport) -> BlockFusion | None:
    """A layer that has both neighbours, as most have; None where the plan does not tell."""
    layers = [block for block in plan.blocks if layer_of(block.block) is not None and block.kernels]
    return layers[len(layers) // 2] if layers else None


def by_layer(grid: Grid, combine: Callable[[Iterable[float]], float]) -> dict[str, float]:
    """One figure a layer."""
    return {layer: combine(row.values()) for layer, row in grid.items()}


def errors(manifest: Manifest) -> Grid:
    """Relative errors of the quantized matrices; empty where there are none."""
    return _grid(manifest, lambda matrix: matrix.relative_error)


def errors_by_layer(manifest: Manifest) -> Mapping[str, float]:
    """Layer -> mean relative error of its quantized matrices; empty where there are none."""
    return by_layer(errors(manifest), fmean)


def ranges(manifest: Manifest) -> Grid:
    """The largest magnitudes of the matrices' inputs in calibration."""
    return _grid(manifest, lambda matrix: matrix.input_range)


def cache_ranges(manifest: Manifest) -> Mapping[str, float]:
    """Keys and values of each layer -> their largest magnitude in calibration."""
    if manifest.quantization is None:
        return {}
    found: dict[str, float] = {}
    for item in manifest.quantization.kv_cache:
        found |= {f"layer {item.layer} keys": item.keys, f"layer {item.layer} values": item.values}
    return found


def short(name: str) -> str:
    """A matrix, or several that are joined, by what tells them apart."""
    parts = [part.removeprefix("model.").removesuffix(".weight") for part in name.split("+")]
    block = parts[0].rpartition(".")[0]
    return "+".join([parts[0], *(part.removeprefix(f"{block}.") for part in parts[1:])])


def _grid(manifest: Manifest, figure: Callable[[QuantizedMatrix], float | None]) -> Grid:
    rows: Grid = defaultdict(dict)
    for matrix in manifest.quantization.matrices if manifest.quantization else ():
        number, layer = figure(matrix), layer_of(matrix.name)
        if number is not None:
            label = "head" if layer is None else f"layer {layer}"
            rows[label][short(matrix.name).removeprefix(f"layers.{layer}.")] = number
    return dict(sorted(rows.items(), key=lambda pair: _order(pair[0])))


def _runs(items: Iterable[tuple[str, Item]]) -> list[tuple[str, Item]]:
    """Neighbouring layers that are alike as one."""
    runs: list[tuple[str, str, Item]] = []
    for name, item in items:
        in_layers = bool(runs) and None not in (layer_of(name), layer_of(runs[-1][0]))
        if in_layers and runs[-1][2] == item:
            runs[-1] = (runs[-1][0], name, item)
        else:
            runs.append((name, name, item))
    return [(_run(first, last), item) for first, last, item in runs]


def _summed(pairs: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    sums: Counter[Key] = Counter()
    for key, amount in pairs:
        sums[key] += amount
    return dict(sums.most_common())


def _span(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def _run(first: str, last: str) -> str:
    if not first:
        return "around them"
    return first if first == last else f"{first}-{layer_of(last)}"


def _order(label: str) -> tuple[int, int]:
    """The embedding first, layers by number, the rest after them."""
    if label.startswith("layer "):
        return 1, int(label.removeprefix("layer "))
    return (0, 0) if label == Part.EMBEDDING else (2, 0)
