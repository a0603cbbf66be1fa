"""The element type of every value of a graph, from ONNX's own signatures of the operators."""

from collections.abc import Iterable, Mapping

from pitcrew_builder.graph.collectives import is_collective
from pitcrew_builder.graph.ir import OPSET, ElementType, Function, Graph, Node, Value

_CHOSEN_BY = {"Cast": "to", "DequantizeLinear": "output_dtype", "QuantizeLinear": "output_dtype"}


def element_types(graph: Graph) -> dict[Value, str]:
    """By value, named as `ElementType` names them; types that no port can have are there too."""
    known: dict[Value, str] = {port.name: port.type.value for port in graph.inputs}
    known |= {weight.name: weight.type.value for weight in graph.weights}
    known |= {literal.name: literal.array.dtype.name for literal in graph.literals}
    functions = {(function.domain, function.name): function for function in graph.functions}
    _follow(graph.nodes, known, functions)
    return known


def port_type(types: Mapping[Value, str], value: Value) -> ElementType:
    """The type of a value that crosses a graph's border."""
    return ElementType(types[value])


def _follow(
    nodes: Iterable[Node],
    known: dict[Value, str],
    functions: Mapping[tuple[str, str], Function],
) -> None:
    for node in nodes:
        if is_collective(node):
            known[node.outputs[0]] = known[node.inputs[0]]
        elif node.domain:
            known |= _called(node, known, functions)
        else:
            known |= _standard(node, known)


def _called(
    node: Node, known: Mapping[Value, str], functions: Mapping[tuple[str, str], Function]
) -> dict[Value, str]:
    function = functions[node.domain, node.op]
    given = zip(function.inputs, node.inputs, strict=False)
    inner = {name: known[value] for name, value in given if value}
    _follow(function.nodes, inner, functions)
    results = zip(node.outputs, function.outputs, strict=False)
    return {value: inner[name] for value, name in results}


def _standard(node: Node, known: Mapping[Value, str]) -> dict[Value, str]:
    import onnx

    schema = onnx.defs.get_schema(node.op, OPSET)
    # The last formal parameter of a variadic operator stands for all that follow.
    formal = [schema.inputs[min(i, len(schema.inputs) - 1)] for i in range(len(node.inputs))]
    bound = {
        parameter.type_str: known[value]
        for parameter, value in zip(formal, node.inputs, strict=True)
        if value
    }
    allowed = {c.type_param_str: tuple(c.allowed_type_strs) for c in schema.type_constraints}
    return {
        value: _result(
            node, schema.outputs[min(i, len(schema.outputs) - 1)].type_str, bound, allowed
        )
        for i, value in enumerate(node.outputs)
    }


def _result(
    node: Node, parameter: str, bound: Mapping[str, str], allowed: Mapping[str, tuple[str, ...]]
) -> str:
    if parameter in bound:
        return bound[parameter]
    only = allowed.get(parameter, (parameter,))
    if len(only) == 1:
        return _plain(only[0])
    return _chosen(node, bound)


def _chosen(node: Node, bound: Mapping[str, str]) -> str:
    """The type that an attribute chooses, or the operator's rule where it is not set."""
    import onnx

    code = node.attribute(_CHOSEN_BY.get(node.op, ""))
    if isinstance(code, int) and code:
        return onnx.helper.tensor_dtype_to_np_dtype(code).name
    if node.op == "Constant":
        return "int64" if node.attributes[0][0] in ("value_int", "value_ints") else "float32"
    if node.op == "DequantizeLinear":
        return bound["T2"]
    assert node.op == "ConstantOfShape", f"{node.op} leaves its result's type open"
    return "float32"


def _plain(name: str) -> str:
    """`tensor(float)` as `float32`."""
    bare = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(bare, bare)
