"""Combinations of a Llama's options, each against a plain computation of the same network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.golden.conftest import EngineOf
from tests.golden.numpy_llama import NumpyLlama

BASE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0}
VARIATIONS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "as many KV heads as heads": {"num_key_value_heads": 6},
    "one KV head": {"num_key_value_heads": 1},
    "wide heads": {"head_dim": 32},
    "attention biases, grouped": {"attention_bias": True},
    "feed-forward biases": {"mlp_bias": True},
    "all biases, tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "linear rope": {"rope_parameters": LINEAR},
    "one layer": {"num_hidden_layers": 1},
    "one head": {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 48},
}


def _tensors(config: dict[str, Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    dim = config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, outputs: int, inputs: int, *, bias: bool = False) -> None:
        tensors[f"{name}.weight"] = 0.2 * rng.standard_normal((outputs, inputs), dtype=np.float32)
        if bias:
            tensors[f"{name}.bias"] = rng.standard_normal(outputs, dtype=np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + 0.3 * rng.standard_normal(hidden, dtype=np.float32)

    linear("model.embed_tokens", config["vocab_size"], hidden)
    norm("model.norm")
    if not config["tie_word_embeddings"]:
        linear("lm_head", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix, biased = f"model.layers.{layer}", config["attention_bias"]
        norm(f"{prefix}.input_layernorm")
        norm(f"{prefix}.post_attention_layernorm")
        for name, outputs in (("q", q), ("k", kv), ("v", kv)):
            linear(f"{prefix}.self_attn.{name}_proj", outputs, hidden, bias=biased)
        linear(f"{prefix}.self_attn.o_proj", hidden, q, bias=biased)
        linear(f"{prefix}.mlp.gate_proj", wide, hidden, bias=config["mlp_bias"])
        linear(f"{prefix}.mlp.up_proj", wide, hidden, bias=config["mlp_bias"])
        linear(f"{prefix}.mlp.down_proj", hidden, wide, bias=config["mlp_bias"])
    return tensors


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_variation_computes_its_network(
    name: str, tmp_path: Path, engine_of: EngineOf
) -> None:
    config = BASE | VARIATIONS[name]
    tensors = _tensors(config)
    checkpoint = tmp_path / "variation"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(config))
    save_file(tensors, checkpoint / "model.safetensors")
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, config["vocab_size"], size=37).tolist()
    batch = engine_of(checkpoint, 5).batch(1)
    pieces = [batch.feed([tokens[start : start + 11]])[0] for start in range(0, 37, 11)]
    expected = NumpyLlama(config, tensors).logits(tokens)
    scale = np.abs(expected).max()
    assert np.abs(np.concatenate(pieces) - expected).max() <= 1e-5 * max(1.0, float(scale))
