"""The CRDs on disk are what the models say, and of a form that an API server admits."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from pitcrew_operator.crdgen.__main__ import FOLDERS, main, stale_files
from pitcrew_operator.crdgen.crd import DEFINITIONS, Definition, manifest
from pitcrew_operator.crdgen.schema import structural

SCHEMA_KEYS = {
    "title",
    "$ref",
    "anyOf",
    "oneOf",
    "allOf",
    "const",
    "exclusiveMinimum",
    "prefixItems",
}


def schemas(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below and at a node."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from schemas(node[key], f"{path}[]")


def root(definition: Definition) -> dict[str, Any]:
    return manifest(definition)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_files_are_what_the_models_generate() -> None:
    assert stale_files() == []
    assert main(["--check"]) == 0


def test_both_folders_hold_both_definitions() -> None:
    for folder in FOLDERS:
        kinds = {yaml.safe_load(p.read_text())["spec"]["names"]["kind"] for p in folder.iterdir()}
        assert kinds == {"LLMEngine", "LLMDeployment"}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.kind)
def test_schema_is_structural(definition: Definition) -> None:
    for path, node in schemas(root(definition)):
        assert not SCHEMA_KEYS & node.keys(), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert node.get("additionalProperties") is not False, path
        assert "default" not in node or node["default"] is not None, path


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.kind)
def test_every_field_is_described_and_every_spec_string_bounded(definition: Definition) -> None:
    spec = root(definition)["properties"]["spec"]
    for path, node in schemas(spec):
        if path and not path.endswith("[]"):
            assert node.get("description"), path
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "integer":
            assert {"minimum"} <= node.keys(), path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.kind)
def test_rules_are_well_formed(definition: Definition) -> None:
    rules = [r for _, n in schemas(root(definition)) for r in n.get("x-kubernetes-validations", ())]
    assert rules
    for rule in rules:
        assert rule.keys() == {"rule", "message"}
        text = re.sub(r"'[^']*'", "''", rule["rule"])
        assert text.count("(") == text.count(")"), rule["rule"]
        assert "self" in text
        assert not rule["message"].endswith(".")


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.kind)
def test_columns_point_at_fields_that_exist(definition: Definition) -> None:
    properties = root(definition)["properties"]
    for column in manifest(definition)["spec"]["versions"][0]["additionalPrinterColumns"]:
        plain = re.sub(r"\[\?\(.*?\)\]", "", column["jsonPath"]).strip(".").split(".")
        if plain[0] == "metadata":
            continue
        node = properties[plain[0]]
        for part in plain[1:]:
            node = node.get("items", node)["properties"][part]


def test_deployment_scales_and_replicas_have_no_default() -> None:
    version = manifest(DEFINITIONS[1])["spec"]["versions"][0]
    assert version["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"
    replicas = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["replicas"]
    assert "default" not in replicas
    assert replicas["minimum"] == 0


def test_union_is_refused_by_name() -> None:
    class Loose(BaseModel):
        either: int | list[str] = Field(description="What a CRD cannot express.")

    with pytest.raises(ValueError, match=r"Loose\.either.*union of 2"):
        structural(Loose)


def test_undescribed_field_is_refused_by_name() -> None:
    class Bare(BaseModel):
        silent: int

    with pytest.raises(ValueError, match=r"Bare\.silent.*description"):
        structural(Bare)
