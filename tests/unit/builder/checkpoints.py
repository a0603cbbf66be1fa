"""Tiny random Llama checkpoints, sound until a test breaks them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "vocab_size": 40,
}

Tensors = dict[str, npt.NDArray[Any]]


def tensors(seed: int = 0) -> Tensors:
    """The weights that `CONFIG` implies."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return 0.2 * rng.standard_normal(shape, dtype=np.float32)

    weights: Tensors = {
        "model.embed_tokens.weight": normal(40, 16),
        "model.norm.weight": np.ones(16, np.float32),
        "lm_head.weight": normal(40, 16),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        weights |= {
            f"{prefix}.input_layernorm.weight": np.ones(16, np.float32),
            f"{prefix}.post_attention_layernorm.weight": np.ones(16, np.float32),
            f"{prefix}.self_attn.q_proj.weight": normal(16, 16),
            f"{prefix}.self_attn.k_proj.weight": normal(8, 16),
            f"{prefix}.self_attn.v_proj.weight": normal(8, 16),
            f"{prefix}.self_attn.o_proj.weight": normal(16, 16),
            f"{prefix}.mlp.gate_proj.weight": normal(24, 16),
            f"{prefix}.mlp.up_proj.weight": normal(24, 16),
            f"{prefix}.mlp.down_proj.weight": normal(16, 24),
        }
    return weights


def write(
    directory: Path,
    weights: Tensors | None = None,
    *,
    shards: int = 1,
    **config: object,
) -> Path:
    """Write a checkpoint with these changes to `CONFIG`; returns its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    write_weights(directory, tensors() if weights is None else weights, shards)
    return directory


def write_weights(directory: Path, weights: Tensors, shards: int) -> None:
    """One file, or several with an index."""
    if shards == 1:
        save_file(weights, directory / "model.safetensors")
        return
    names = sorted(weights)
    index: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        save_file(part, directory / file)
        index |= dict.fromkeys(part, file)
    document = {"metadata": {}, "weight_map": index}
    (directory / "model.safetensors.index.json").write_text(json.dumps(document))


def rewrite_header(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply `change` to the JSON header of a safetensors file, leaving its data alone."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
