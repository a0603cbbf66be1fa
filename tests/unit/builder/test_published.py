"""Configs in the shapes that well-known models are published with, drawn at their full size.

`parameters` is what transformers 5.23 counts when it makes a network of the same config; of
multimodal models, in their language model. No weight is read for either.
"""

import json
from pathlib import Path

import pytest

from pitcrew_builder.checkpoint.config import Envelope, parse_as
from pitcrew_builder.checkpoint.wrapped import language_config
from pitcrew_builder.families import family_of
from pitcrew_builder.request import resolve_shapes
from pitcrew_builder.spec import Shapes

MODELS = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_published_models_have_their_parameters(name: str) -> None:
    raw = language_config(MODELS[name]["config"])
    family = family_of(parse_as(Envelope, raw, "config.json"))
    config = parse_as(family.config, raw, "config.json")
    graph = family.graph(config, resolve_shapes(Shapes(), config))
    assert sum(weight.elements for weight in graph.weights) == MODELS[name]["parameters"]
