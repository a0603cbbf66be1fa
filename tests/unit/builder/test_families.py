"""What configs mean, what their defaults are, and which variations are refused."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from pitcrew_builder.checkpoint.config import parse_as
from pitcrew_builder.errors import BuildError, CheckpointCorrupt, UnknownArchitecture
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.ir import Graph, Value
from pitcrew_builder.manifest import ResolvedShapes
from pitcrew_builder.optimize import optimize
from pitcrew_builder.request import resolve_shapes
from pitcrew_builder.spec import Shapes
from pitcrew_builder.targets.contiguous import contiguous

SHAPES = ResolvedShapes(max_batch_size=2, max_sequence_length=64, kv_page_size=4)
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "max_position_embeddings": 128,
}


def _config(family: str, changes: Mapping[str, Any]) -> Any:  # noqa: ANN401
    document = {"model_type": family, **SMALL, **changes}
    return parse_as(FAMILIES[family].config, document, "config.json")


def _graph(family: str, **changes: object) -> Graph:
    return FAMILIES[family].graph(_config(family, changes), SHAPES)


def _windows(family: str, **changes: object) -> list[int | None]:
    windows: list[int | None] = list(_config(family, changes).windows)
    return windows


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_from_a_plain_config(family: str) -> None:
    graph = _graph(family)
    outputs = {port.name for port in graph.outputs}
    assert {"logits", "new_keys.3", "new_values.3"} <= outputs


def test_windows_by_default() -> None:
    assert _windows("gemma2", sliding_window=8) == [8, None, 8, None]
    assert _windows("gemma3_text", sliding_window=8, sliding_window_pattern=3) == [8, 8, None, 8]
    assert _windows("gpt_oss", sliding_window=8) == [8, None, 8, None]
    assert _windows("qwen2", sliding_window=8) == [None] * 4
    late = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
    assert _windows("qwen3", **late) == [None, None, None, 8]


def test_null_means_no_window_and_absence_the_default() -> None:
    assert _config("mistral", {}).sliding_window == 4096
    assert _config("mistral", {"sliding_window": None}).sliding_window is None


def test_masks_are_built_once_for_each_kind_of_window() -> None:
    masks = {
        family: sum(node.name.startswith("step/mask") for node in _graph(family).nodes)
        for family in ("llama", "mistral", "gemma2")
    }
    assert masks == {"llama": 1, "mistral": 1, "gemma2": 2}


@pytest.mark.parametrize(("head_dim", "is_read"), [(20, False), (24, True)])
def test_contexts_are_read_in_place_where_heads_are_as_wide_as_the_operator_takes(
    head_dim: int, is_read: bool
) -> None:
    assert (contiguous(_graph("llama", head_dim=head_dim)) is not None) is is_read


@pytest.mark.parametrize(
    ("family", "changes", "is_fused"),
    [
        ("llama", {}, True),
        ("llama", {"attention_bias": True}, True),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, True),
        ("llama", {"head_dim": 24}, False),
        ("qwen2", {}, True),
        ("qwen3", {}, False),
        ("phi3", {"partial_rotary_factor": 0.5}, False),
    ],
)
def test_attention_rotates_and_splits_by_itself_where_nothing_stands_between(
    family: str, changes: dict[str, object], is_fused: bool
) -> None:
    graph = contiguous(optimize(_graph(family, **changes)))
    assert graph is not None
    attention = [node for node in graph.nodes if node.op == "GroupQueryAttention"]
    assert len(attention) == 4
    assert {node.attribute("do_rotary") for node in attention} == {1 if is_fused else None}
    assert any(node.op == "RotaryEmbedding" for node in graph.nodes) is not is_fused
    assert not any(port.name.startswith("new_") for port in graph.outputs)


def test_experts_of_a_layer_are_one_node() -> None:
    graph = _graph("qwen3_moe", num_experts=4, num_experts_per_tok=2, mlp_only_layers=[1])
    nodes = [node.name for node in graph.nodes if node.op == "MixtureOfExperts"]
    assert nodes == [f"layers.{index}/experts" for index in (0, 2, 3)]
    stacked = {weight.shape for weight in graph.weights if weight.stacked}
    assert stacked == {(4, 768, 64), (4, 64, 768)}


FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(("asked", "rows", "short"), [(None, 96, 32), (32, 32, 0), (50, 82, 32)])
@pytest.mark.parametrize("family", ["phi3", "llama", "gemma3_text"])
def test_angles_of_short_texts_lie_behind_those_of_long_ones(
    family: str, asked: int | None, rows: int, short: int
) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e6, "attention_factor": 1.0, **FACTORS}
    rope |= {"original_max_position_embeddings": 32}
    keys: dict[str, Any] = {"rope_parameters": rope, "max_position_embeddings": 64}
    if family == "gemma3_text":
        keys["rope_parameters"] = {"full_attention": rope}
    else:
        keys["original_max_position_embeddings"] = 32
    config = _config(family, keys)
    shapes = resolve_shapes(Shapes(max_sequence_length=asked), config)
    assert config.short_length(shapes.max_sequence_length) == short
    graph = FAMILIES[family].graph(config, shapes)
    tables = {one.name: one.array for one in graph.literals}
    sines = tables[Value("rope.sin")]
    assert len(sines) == rows
    # Of the slowest frequency, the same for both but for its factor.
    if short:
        np.testing.assert_allclose(2 * sines[1, -1], sines[rows - short + 1, -1], rtol=1e-6)
    if family == "gemma3_text" and short:
        local = tables[Value("local_rope.sin")]
        np.testing.assert_array_equal(local[:short], local[rows - short :])


def test_a_part_counts_where_transformers_looks_at_it() -> None:
    def sines(family: str, **keys: object) -> Any:  # noqa: ANN401
        tables = {one.name: one.array for one in _graph(family, **keys).literals}
        return tables[Value("rope.sin")]

    default = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    whole = sines("llama")
    np.testing.assert_array_equal(sines("llama", rope_parameters=default), whole)
    part = sines("llama", rope_parameters=default | {"rope_type": "proportional"})
    np.testing.assert_array_equal(part[:, :4], whole[:, :4])
    assert not part[:, 4:].any()
    assert sines("phi3", rope_parameters=default).shape[1] == 4
    with pytest.raises(UnknownArchitecture, match="rope_type is 'proportional'"):
        sines("phi3", rope_parameters=default | {"rope_type": "proportional"})


def test_a_rotation_of_windows_with_two_sets_is_refused() -> None:
    rope = {"rope_type": "longrope", **FACTORS}
    keys = {"rope_parameters": {"sliding_attention": rope}}
    with pytest.raises(UnknownArchitecture, match=r"sliding_attention\.rope_type is 'longrope'"):
        _graph("gemma3_text", **keys)


def test_the_older_place_of_rotary_keys_wins_as_in_transformers() -> None:
    both = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"factor": 3.0}}
    rope = _config("llama", both).rope_parameters
    assert (rope.rope_type, rope.factor) == ("linear", 2.0)


def test_odd_parts_of_heads_are_not_rotated() -> None:
    with pytest.raises(UnknownArchitecture, match=r"partial_rotary_factor is 0\.3"):
        _graph("phi3", partial_rotary_factor=0.3, head_dim=30)


def test_a_family_knows_how_many_kv_heads_a_config_leaves_out() -> None:
    bare = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
    wide = bare | {"num_attention_heads": 16, "model_type": "mistral"}
    mistral = FAMILIES["mistral"].config
    assert parse_as(mistral, wide, "config.json").num_key_value_heads == 8
    stated = wide | {"num_key_value_heads": None}
    assert parse_as(mistral, stated, "config.json").num_key_value_heads == 16


def test_older_names_of_rotary_keys() -> None:
    old = {"rope_theta": 7.0, "rope_scaling": {"type": "su", **FACTORS}, "rms_norm_eps": None}
    rope = _config("phi3", old).rope_parameters
    assert (rope.rope_type, rope.rope_theta, rope.short_factor) == ("longrope", 7.0, (1.0,) * 8)
    gemma = _config("gemma3_text", {"rope_theta": 5.0, "rope_local_base_freq": 3.0})
    assert (gemma.rope_parameters.rope_theta, gemma.local_rope_parameters.rope_theta) == (5.0, 3.0)
    assert _config("mixtral", {}).rope_parameters.rope_theta == 1000000.0
    assert _config("gpt_oss", {}).rope_parameters.rope_type == "yarn"


def test_gemma_3_rounds_the_ends_of_a_ramp_whatever_a_layer_kind_says() -> None:
    """As transformers, which looks for `truncate` beside the layer kinds."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    kinds = {"full_attention": rope, "sliding_attention": rope}
    exact = {kind: {**rope, "truncate": False} for kind in kinds}
    tables = [
        {one.name: one.array for one in _graph("gemma3_text", rope_parameters=given).literals}
        for given in (kinds, exact)
    ]
    for name in ("rope.sin", "local_rope.sin"):
        np.testing.assert_array_equal(tables[0][Value(name)], tables[1][Value(name)])


TYPES = {"layer_types": ["full_attention"] * 3}
REFUSED: dict[str, tuple[str, dict[str, Any], type[BuildError], str]] = {
    "too few layer types": ("qwen2", TYPES, UnknownArchitecture, "layer_types"),
    "a layer type of another family": (
        "gemma2", {"layer_types": ["linear_attention"] * 4}, UnknownArchitecture, "linear_attention",
    ),
    "layer types of a Ministral": ("mistral", TYPES, UnknownArchitecture, "layer_types"),
    "rotary keys that are a list": (
        "llama", {"rope_parameters": [1]}, CheckpointCorrupt, r"rope_parameters is '\[1\]', no object",
    ),
    "rotary keys of a layer kind that are a name": (
        "gemma3_text", {"rope_parameters": {"full_attention": "yarn"}}, CheckpointCorrupt,
        "full_attention is 'yarn', no object",
    ),
    "windows without a size": (
        "qwen3", {"layer_types": ["sliding_attention"] * 4}, UnknownArchitecture, "sliding_window",
    ),
    "a window of nothing": ("mistral", {"sliding_window": 0}, CheckpointCorrupt, "sliding_window"),
    "text read from both sides": (
        "gemma3_text", {"use_bidirectional_attention": True}, UnknownArchitecture, "bidirectional",
    ),
    "more experts chosen than there are": (
        "mixtral", {"num_local_experts": 2, "num_experts_per_tok": 3}, UnknownArchitecture,
        "num_experts_per_tok is 3",
    ),
    "experts of another activation": (
        "qwen3_moe", {"hidden_act": "gelu"}, UnknownArchitecture, "hidden_act",
    ),
    "too few rotation factors": (
        "phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}},
        UnknownArchitecture, "short_factor",
    ),
    "a negative multiplier of logits": (
        "granite", {"logits_scaling": -1}, CheckpointCorrupt, "logits_scaling",
    ),
    "packed experts of an odd width": (
        "gpt_oss", {"intermediate_size": 40, "quantization_config": {"quant_method": "mxfp4"}},
        UnknownArchitecture, "intermediate_size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_variations_that_nobody_draws_are_refused(name: str) -> None:
    family, changes, kind, told = REFUSED[name]
    with pytest.raises(kind, match=told):
        _graph(family, **changes)
