"""Short spellings for the nodes of a model-local function's body."""

from pitcrew_builder.graph.ir import Attribute, AttributeKind, AttributeRef, Node, Value


def node(op: str, inputs: str, output: str, **attributes: Attribute) -> Node:
    """A node of one output; `inputs` are names with blanks between them."""
    names = tuple(Value(name) for name in inputs.split())
    return Node(op, output, names, (Value(output),), tuple(attributes.items()))


def ints(output: str, *values: int) -> Node:
    """A constant int64 vector."""
    return node("Constant", "", output, value_ints=values)


def given_ints(output: str, attribute: str) -> Node:
    """The int64 vector that the caller gives as an attribute."""
    return node("Constant", "", output, value_ints=AttributeRef(attribute, AttributeKind.INTS))


def given_int(attribute: str) -> AttributeRef:
    """The integer that the caller gives as an attribute."""
    return AttributeRef(attribute, AttributeKind.INT)


def given_float(attribute: str) -> AttributeRef:
    """The number that the caller gives as an attribute."""
    return AttributeRef(attribute, AttributeKind.FLOAT)


def values(names: str) -> tuple[Value, ...]:
    """Names with blanks between them."""
    return tuple(Value(name) for name in names.split())
