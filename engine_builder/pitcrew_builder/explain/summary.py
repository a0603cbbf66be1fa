"""Figures that the terminal and the page both show, from a manifest and its graphs' anatomy."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from pitcrew_builder.explain.anatomy import Anatomy, Part, dissect, layer_of
from pitcrew_builder.manifest import Manifest
from pitcrew_builder.store.protocol import EngineStore

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Explained:
    """An engine and what its graphs hold, one anatomy a rank; none where ranks are plans."""

    manifest: Manifest
    ranks: tuple[Anatomy, ...]

    @property
    def bytes_by_part(self) -> dict[Part, int]:
        """Bytes of each class over all ranks, the largest first."""
        return _summed((item.part, item.nbytes) for rank in self.ranks for item in rank.tensors)

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes of each element type over all ranks, the largest first."""
        return _summed((item.type, item.nbytes) for rank in self.ranks for item in rank.tensors)

    @property
    def bytes_by_layer(self) -> dict[str, dict[Part, int]]:
        """Layer -> class -> bytes over all ranks; what is in no layer goes by its class."""
        layers: dict[str, Counter[Part]] = defaultdict(Counter)
        for item in (item for rank in self.ranks for item in rank.tensors):
            label = str(item.part) if item.layer is None else f"layer {item.layer}"
            layers[label][item.part] += item.nbytes
        return dict(sorted(layers.items(), key=lambda pair: _order(pair[0])))


def explain(store: EngineStore, path: str) -> Explained:
    """Read an engine's manifest and the graphs that are ONNX. Raises `EngineCorrupt`."""
    manifest = store.open(path, digests=False)
    graphs = [rank.graph for rank in manifest.ranks if rank.graph.endswith(".onnx")]
    return Explained(manifest, tuple(dissect(store.read_file(path, name)) for name in graphs))


def blocks(anatomy: Anatomy) -> list[tuple[str, Counter[str]]]:
    """Blocks with their operators; neighbours that are alike are one, such as `layers.0-5`."""
    runs: list[tuple[str, str, Counter[str]]] = []
    for name, operators in anatomy.blocks.items():
        alike = bool(runs) and runs[-1][2] == operators and layer_of(name) is not None
        if alike and layer_of(runs[-1][0]) is not None:
            runs[-1] = (runs[-1][0], name, operators)
        else:
            runs.append((name, name, operators))
    return [(_run(first, last), operators) for first, last, operators in runs]


def errors_by_layer(manifest: Manifest) -> Mapping[str, float]:
    """Layer -> mean relative error of its quantized matrices; empty where there are none."""
    if manifest.quantization is None:
        return {}
    found: dict[str, list[float]] = defaultdict(list)
    for matrix in manifest.quantization.matrices:
        if matrix.relative_error is None:
            continue
        layer = layer_of(matrix.name)
        found["head" if layer is None else f"layer {layer}"].append(matrix.relative_error)
    return {
        name: fmean(values) for name, values in sorted(found.items(), key=lambda i: _order(i[0]))
    }


def ranges(manifest: Manifest) -> Mapping[str, float]:
    """Matrix -> the largest magnitude of its input in calibration."""
    if manifest.quantization is None:
        return {}
    matrices = manifest.quantization.matrices
    return {item.name: item.input_range for item in matrices if item.input_range is not None}


def cache_ranges(manifest: Manifest) -> Mapping[str, float]:
    """Keys and values of each layer -> their largest magnitude in calibration."""
    if manifest.quantization is None:
        return {}
    found: dict[str, float] = {}
    for item in manifest.quantization.kv_cache:
        found |= {f"layer {item.layer} keys": item.keys, f"layer {item.layer} values": item.values}
    return found


def _summed(pairs: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    sums: Counter[Key] = Counter()
    for key, amount in pairs:
        sums[key] += amount
    return dict(sums.most_common())


def _run(first: str, last: str) -> str:
    if not first:
        return "around them"
    return first if first == last else f"{first}-{layer_of(last)}"


def _order(label: str) -> tuple[int, int]:
    """The embedding first, layers by number, the rest after them."""
    if label.startswith("layer "):
        return 1, int(label.removeprefix("layer "))
    return (0, 0) if label == Part.EMBEDDING else (2, 0)
