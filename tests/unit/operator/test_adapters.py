"""Adapters of an LLMEngine, as the builder receives them."""

import pytest
from pydantic import ValidationError

from pitcrew_operator.api.engine import LLMEngineSpec
from tests.unit.operator.factories import engine

HUB = {"huggingFace": {"repo": "org/lora", "revision": "v2"}}


def test_adapters_reach_the_builder_in_order() -> None:
    owner = engine({"adapters": [{"path": "loras/law", "weight": "0.5"}, HUB]})
    volume, hub = owner.spec.build_spec().model_dump(by_alias=True)["adapters"]
    assert volume["source"] == {"kind": "local", "path": "/models/loras/law", "name": "law"}
    assert volume["weight"] == "0.5"
    assert (hub["source"]["repo"], hub["source"]["revision"]) == ("org/lora", "v2")
    assert hub["weight"] == "1"


def test_an_engine_without_adapters_asks_for_none() -> None:
    assert "adapters" not in engine().spec.build_spec().model_dump(by_alias=True)


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ({}, "exactly one of huggingFace and path"),
        ({**HUB, "path": "x"}, "exactly one of huggingFace and path"),
        ({"path": "x"}, "set model.volume"),
        ({"path": "loras/../../etc"}, "path"),
        ({**HUB, "weight": "half"}, "weight"),
    ],
)
def test_adapters_from_nowhere_are_refused(adapter: dict[str, object], told: str) -> None:
    document = {"model": {"huggingFace": {"repo": "org/model"}}, "adapters": [adapter]}
    with pytest.raises(ValidationError, match=told):
        LLMEngineSpec.model_validate(document)
