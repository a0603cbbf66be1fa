"""From pydantic's JSON schema to the structural schema that a CRD admits.

Kubernetes wants one closed form: no references, no unions, no titles, no `additionalProperties:
false`. Absent is how a field says None, so `anyOf [..., null]` becomes the plain type. Defaults are
kept where they are scalars (the API server then shows them to users and printer columns).
"""

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = (
    "type",
    "description",
    "enum",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
)


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, its own docstring left out.

    Raises ValueError, naming the field, where a construct has no structural form or a field has no
    description.
    """
    raw = model.model_json_schema(by_alias=True)
    return _convert(raw, raw.get("$defs", {}), model.__name__)


def _convert(node: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    node = _resolve(node, definitions, path)
    if node.get("x-kubernetes-int-or-string"):
        return _pick(node, ("description", "pattern")) | _extensions(node)
    kept = _pick(node, _KEPT) | _extensions(node)
    if "const" in node:
        kept["enum"] = [node["const"]]
    if "type" not in kept:
        raise ValueError(f"{path}: the schema has no type; a CRD cannot express {sorted(node)}")
    if kept["type"] == "number" or "exclusiveMinimum" in node or "exclusiveMaximum" in node:
        raise ValueError(f"{path}: floats and exclusive bounds do not belong in a CRD")
    if _is_scalar(node.get("default")):
        kept["default"] = node["default"]
    return kept | _children(node, definitions, path)


def _children(node: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    inner: Schema = {}
    if "properties" in node:
        inner["properties"] = {
            name: _described(_convert(child, definitions, f"{path}.{name}"), f"{path}.{name}")
            for name, child in node["properties"].items()
        }
    if "items" in node:
        inner["items"] = _convert(node["items"], definitions, f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        values = _convert(node["additionalProperties"], definitions, f"{path}{{}}")
        inner["additionalProperties"] = values
    return inner


def _resolve(node: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """Follow references and drop the null branch; what stands at the field wins."""
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        return _resolve(target | _without(node, "$ref"), definitions, path)
    if "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
        real = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
        if len(real) != 1:
            raise ValueError(f"{path}: a CRD cannot express a union of {len(real)} types")
        return _resolve(real[0] | _without(node, "anyOf"), definitions, path)
    return node


def _described(child: Schema, path: str) -> Schema:
    if not child.get("description"):
        raise ValueError(f"{path}: give the field a description; users read it in kubectl explain")
    return child


def _extensions(node: Schema) -> Schema:
    return {key: value for key, value in node.items() if key.startswith("x-kubernetes-")}


def _pick(node: Schema, keys: tuple[str, ...]) -> Schema:
    return {key: node[key] for key in keys if key in node}


def _without(node: Schema, key: str) -> Schema:
    return {name: value for name, value in node.items() if name != key}


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | str)
