"""A narrow KV cache: keys and values leave the graph as one-byte codes and are read back as such.

Codes are symmetric, with one step for each channel of each KV head, fixed by calibration. A step is
never applied to a cached element. With codes c and steps s, the score q . (s * c) is (q * s) . c, and
the mix sum(w * s * c) is s * sum(w * c): the queries and what is attended, a few rows a step, are
multiplied instead of the whole context. That makes a step per channel as cheap as one per tensor,
which matters because keys have channels that are large for every token (Liu et al. 2024, "KIVI").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pitcrew_builder.blocks.paged_codes import byte_values, code_name, over_codes
from pitcrew_builder.graph.ir import ElementType, Graph, Literal, Node, Port, Value
from pitcrew_builder.manifest import CacheRange, Placement
from pitcrew_builder.network import Executable
from pitcrew_builder.quantize.grid import Floats, Grid
from pitcrew_builder.quantize.observe import Calibration
from pitcrew_builder.spec import CacheFormat
from pitcrew_builder.targets.onnx_files import GRAPH

CODES = {CacheFormat.FP8: ElementType.FLOAT8, CacheFormat.INT8: ElementType.INT8}

_KINDS = ("keys", "values")
_POOL, _POOLS, _NEW = "key_pool.", "_pool.", "new_"
"""Parts of the names of `manifest.GraphInterface`."""

_UNIT, _ZERO = Value("cache/unit"), Value("cache/zero")
_BYTE_VALUES = Value("cache/byte_values")

_NARROWEST = 2**-8
"""A channel's reach counts as no less than this share of its head's: nobody hears finer steps."""

_LEAST_STEP = 2.0**-14
"""The least normal number of float16, whose inverse it holds too."""


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """The largest magnitudes of a layer's keys (after rotation) and values, each [kv_heads, D]."""

    keys: Floats
    values: Floats

    def heads(self, placement: Placement | None) -> "Reach":
        """What a rank holds of it."""
        if placement is None:
            return self
        own = slice(placement.first_kv_head, placement.first_kv_head + placement.kv_heads)
        return Reach(self.keys[own], self.values[own])


def observe_cache(calibration: Calibration, advance: Callable[[float], None]) -> dict[int, Reach]:
    """By layer, over the calibration text in the unquantized graph."""
    network = Executable(calibration.reference / GRAPH)
    names = [f"new_{kind}.{n}" for n in range(calibration.facts.layers) for kind in _KINDS]
    shape = (calibration.facts.kv_heads, calibration.facts.head_dim)
    found = {name: np.zeros(shape, np.float32) for name in names}
    for number, text in enumerate(calibration.texts):
        outputs = network.run(calibration.inputs(text))
        for name, most in found.items():
            np.maximum(most, np.abs(outputs[name][0]).max(axis=0), out=most)
        advance((number + 1) / len(calibration.texts))
    return {
        layer: Reach(found[f"new_keys.{layer}"], found[f"new_values.{layer}"])
        for layer in range(calibration.facts.layers)
    }


def even_reaches(graph: Graph) -> dict[int, Reach]:
    """The same everywhere, for a graph that is only measured."""
    ports = {port.name: port for port in graph.inputs if port.name.startswith(_POOL)}
    reaches: dict[int, Reach] = {}
    for name, port in ports.items():
        *_, kv_heads, head_dim = port.shape or ()
        ones = np.ones((int(kv_heads), int(head_dim)), np.float32)
        reaches[int(name.removeprefix(_POOL))] = Reach(ones, ones)
    return reaches


def ranges(reaches: Mapping[int, Reach]) -> tuple[CacheRange, ...]:
    """For the manifest."""
    return tuple(
        CacheRange(layer=layer, keys=float(reach.keys.max()), values=float(reach.values.max()))
        for layer, reach in reaches.items()
    )


def steps(reach: Floats, kind: ElementType) -> Floats:
    """What one code is worth, by channel [kv_heads, D], so that the largest code means the reach."""
    least = reach.max(axis=1, keepdims=True) * np.float32(_NARROWEST)
    limit = np.float32(Grid(kind, reach.shape[1]).limit)
    found: Floats = np.maximum(np.maximum(reach, least) / limit, np.float32(_LEAST_STEP))
    return found


def narrow_cache(graph: Graph, kind: ElementType, reaches: Mapping[int, Reach]) -> Graph:
    """`graph`, drawn in float32, over pools of `kind` (int8 or FP8).

    `reaches` has the layers of the graph and the KV heads of its rank.
    """
    layers = {node.name: layer for node in graph.nodes if (layer := _layer_of(node)) is not None}
    paged = {node.op for node in graph.nodes if node.name in layers}
    narrow = {
        node.name: _narrow(node, kind, reaches[layers[node.name]])
        for node in graph.nodes
        if node.name in layers
    }
    codes = {value: code for each in narrow.values() for value, code in each.codes.items()}
    nodes: list[Node] = []
    for node in graph.nodes:
        # Beside attention, only the nodes that hand keys and values out read them.
        nodes.extend(narrow[node.name].nodes if node.name in narrow else [_renamed(node, codes)])
    return replace(
        graph,
        inputs=tuple(_retyped(port, _POOLS, ElementType.INT8) for port in graph.inputs),
        outputs=tuple(_retyped(port, _NEW, kind) for port in graph.outputs),
        nodes=tuple(nodes),
        literals=(
            *graph.literals,
            *_common(kind),
            *(literal for each in narrow.values() for literal in each.literals),
        ),
        functions=tuple(
            over_codes(each, kind) if each.name in paged else each for each in graph.functions
        ),
    )


@dataclass(frozen=True, slots=True)
class _Narrow:
    """What takes the place of one attention node."""

    nodes: tuple[Node, ...]
    literals: tuple[Literal, ...]
    codes: Mapping[Value, Value]
    """What is encoded -> its codes."""


def _narrow(node: Node, kind: ElementType, reach: Reach) -> _Narrow:
    queries, keys, values, *others = node.inputs
    heads, kv_heads = node.attribute("q_num_heads"), node.attribute("kv_num_heads")
    assert isinstance(heads, int)
    assert isinstance(kv_heads, int)
    key_steps, value_steps = steps(reach.keys, kind), steps(reach.values, kind)
    pen = _Pen(f"{node.name}.cache")
    scaled = pen.times(queries, "queries", _spread(key_steps, heads // kv_heads))
    key_codes = pen.encoded(keys, "keys", key_steps)
    value_codes = pen.encoded(values, "values", value_steps)
    new = (key_codes, value_codes)
    if kind is ElementType.FLOAT8:
        new = (pen.decoded(key_codes, "keys"), pen.decoded(value_codes, "values"))
        others = [*others, _BYTE_VALUES]
    (result,) = node.outputs
    mixed = Value(f"{pen.scope}/mixed")
    op, inputs = code_name(node.op, kind), (scaled, *new, *others)
    pen.nodes.append(replace(node, op=op, inputs=inputs, outputs=(mixed,)))
    pen.times(mixed, "attended", _spread(value_steps, heads // kv_heads), result)
    return _Narrow(tuple(pen.nodes), tuple(pen.literals), {keys: key_codes, values: value_codes})


class _Pen:
    """Draws the nodes of one layer."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.nodes: list[Node] = []
        self.literals: list[Literal] = []

    def times(self, value: Value, name: str, factors: Floats, result: Value | None = None) -> Value:
        """`value` [B, S, n] times `factors` [n]."""
        literal = Literal(Value(f"{self.scope}/{name}_factors"), factors)
        self.literals.append(literal)
        result = result or Value(f"{self.scope}/{name}")
        self.nodes.append(Node("Mul", f"{self.scope}/{name}", (value, literal.name), (result,)))
        return result

    def encoded(self, value: Value, name: str, worth: Floats) -> Value:
        """The codes of `value` [B, S, kv_heads * D], saturated."""
        scaled = self.times(value, name, np.reciprocal(worth.reshape(-1)))
        codes = Value(f"{self.scope}/{name}_codes")
        self.nodes.append(Node("QuantizeLinear", codes, (scaled, _UNIT, _ZERO), (codes,)))
        return codes

    def decoded(self, codes: Value, name: str) -> Value:
        """The numbers that the codes mean, in steps."""
        rounded = Value(f"{self.scope}/{name}_rounded")
        inputs = (codes, _UNIT, _ZERO)
        self.nodes.append(Node("DequantizeLinear", rounded, inputs, (rounded,)))
        return rounded


def _common(kind: ElementType) -> tuple[Literal, ...]:
    """The constants that all layers share."""
    unit = Literal(_UNIT, np.ones((), np.float32)), Literal(_ZERO, np.zeros((), kind.dtype))
    return unit if kind is ElementType.INT8 else (*unit, Literal(_BYTE_VALUES, byte_values()))


def _spread(worth: Floats, group: int) -> Floats:
    """[kv_heads, D] to [heads * D]: each KV head serves a group of heads."""
    spread: Floats = np.repeat(worth, group, axis=0).reshape(-1)
    return spread


def _layer_of(node: Node) -> int | None:
    """The layer whose pools the node reads, None where it reads none."""
    pools = [name for name in node.inputs if name.startswith(_POOL)]
    return int(pools[0].removeprefix(_POOL)) if pools else None


def _retyped(port: Port, part: str, kind: ElementType) -> Port:
    return replace(port, type=kind) if part in port.name else port


def _renamed(node: Node, codes: Mapping[Value, Value]) -> Node:
    return replace(node, inputs=tuple(codes.get(name, name) for name in node.inputs))
