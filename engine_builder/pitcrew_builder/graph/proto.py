"""From `Graph` to an ONNX model. The proto holds no weight bytes: it points into data files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx import helper as oh

from pitcrew_builder.graph.ir import (
    OPSET,
    Array,
    Attribute,
    AttributeKind,
    AttributeRef,
    ElementType,
    Function,
    Graph,
    Literal,
    Node,
    Port,
    Value,
)

IR_VERSION = 11
INLINE_LIMIT = 1024
"""Literals up to this many bytes stand in the proto: readers fold shapes and scalars."""

_TYPES = {
    ElementType.FLOAT32: TensorProto.FLOAT,
    ElementType.FLOAT16: TensorProto.FLOAT16,
    ElementType.BFLOAT16: TensorProto.BFLOAT16,
    ElementType.INT64: TensorProto.INT64,
    ElementType.FLOAT8: TensorProto.FLOAT8E4M3FN,
    ElementType.INT8: TensorProto.INT8,
    ElementType.INT4: TensorProto.INT4,
}
_KINDS = {
    AttributeKind.INT: AttributeProto.INT,
    AttributeKind.FLOAT: AttributeProto.FLOAT,
    AttributeKind.INTS: AttributeProto.INTS,
}


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a constant's bytes lie in the data files."""

    offset: int
    length: int
    file: int = 0


def data_name(stem: str, file: int) -> str:
    """What a data file is called: the first one `stem`, the next one `stem.1`."""
    return f"{stem}.{file}" if file else stem


def is_inline(literal: Literal) -> bool:
    """Whether a literal stands in the proto itself."""
    return literal.array.nbytes <= INLINE_LIMIT


def to_proto(
    graph: Graph, extents: Mapping[Value, Extent], data_stem: str, metadata: Mapping[str, str]
) -> ModelProto:
    """Translate. `extents` places every weight and every literal that is not inline, in files that
    `data_name` calls after `data_stem`.
    """
    inline = [_inline(item.name, item.array) for item in graph.literals if is_inline(item)]
    literals = [
        _external(item.name, item.array.shape, _type_of(item.array), extents[item.name], data_stem)
        for item in graph.literals
        if not is_inline(item)
    ]
    weights = [
        _external(item.name, item.shape, item.type, extents[item.name], data_stem)
        for item in graph.weights
    ]
    model = oh.make_model(
        oh.make_graph(
            [_node(node) for node in graph.nodes],
            graph.name,
            [_port(port) for port in graph.inputs],
            [_port(port) for port in graph.outputs],
            initializer=[*inline, *literals, *weights],
        ),
        functions=[_function(function) for function in graph.functions],
        opset_imports=_opsets(graph),
        ir_version=IR_VERSION,
        producer_name="pitcrew",
    )
    onnx.helper.set_model_props(model, dict(metadata))
    return model


def _opsets(graph: Graph) -> list[onnx.OperatorSetIdProto]:
    called = {node.domain for node in graph.nodes}
    return _imported(called | {function.domain for function in graph.functions})


def _imported(domains: Iterable[str]) -> list[onnx.OperatorSetIdProto]:
    own = sorted({domain for domain in domains if domain})
    return [oh.make_opsetid("", OPSET), *(oh.make_opsetid(domain, 1) for domain in own)]


def _node(node: Node) -> NodeProto:
    proto = NodeProto(op_type=node.op, name=node.name, domain=node.domain)
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    proto.attribute.extend(_attribute(name, value) for name, value in node.attributes)
    return proto


def _attribute(name: str, value: Attribute) -> AttributeProto:
    if isinstance(value, AttributeRef):
        return AttributeProto(name=name, ref_attr_name=value.name, type=_KINDS[value.kind])
    return oh.make_attribute(name, value)


def _function(function: Function) -> FunctionProto:
    return oh.make_function(
        function.domain,
        function.name,
        function.inputs,
        function.outputs,
        [_node(node) for node in function.nodes],
        _imported(node.domain for node in function.nodes),
        list(function.attributes),
    )


def _port(port: Port) -> ValueInfoProto:
    return oh.make_tensor_value_info(port.name, _TYPES[port.type], port.shape)


def _type_of(array: Array) -> ElementType:
    return ElementType(array.dtype.name)


def _inline(name: Value, array: Array) -> TensorProto:
    return TensorProto(
        name=name, dims=array.shape, data_type=_TYPES[_type_of(array)], raw_data=array.tobytes()
    )


def _external(
    name: Value, shape: tuple[int, ...], kind: ElementType, extent: Extent, data_stem: str
) -> TensorProto:
    proto = TensorProto(name=name, dims=shape, data_type=_TYPES[kind])
    proto.data_location = TensorProto.EXTERNAL
    entries = {
        "location": data_name(data_stem, extent.file),
        "offset": str(extent.offset),
        "length": str(extent.length),
    }
    for key, text in entries.items():
        proto.external_data.add(key=key, value=text)
    return proto
