"""A Llama of 125 million random parameters, the same on every machine.

Its tokenizer is the sample model's, filled up to 32,000 tokens with names that no text contains:
only their number matters here, and prompts are given as tokens.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

SAMPLE = Path(__file__).parents[2] / "samples" / "models" / "tiny-kjv"
HIDDEN, LAYERS, HEADS, KV_HEADS, INNER, VOCABULARY = 768, 12, 12, 4, 2048, 32_000
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HIDDEN // HEADS,
    "intermediate_size": INNER,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "dtype": "bfloat16",
}


def write(directory: Path) -> None:
    """Write the checkpoint: normal numbers of a spread that keeps activations in bounds."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(125)
    tensors = {name: _numbers(rng, shape) for name, shape in _shapes().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=1))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (directory / name).write_bytes((SAMPLE / name).read_bytes())
    (directory / "tokenizer.json").write_text(json.dumps(_tokenizer()))


def _shapes() -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KV_HEADS
    layer = {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (kv, HIDDEN),
        "self_attn.v_proj": (kv, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for index in range(LAYERS):
        prefix = f"model.layers.{index}"
        shapes |= {f"{prefix}.{name}.weight": shape for name, shape in layer.items()}
    return {**shapes, "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def _numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, ml_dtypes.bfloat16)
    return (rng.standard_normal(shape, np.float32) * 0.04).astype(ml_dtypes.bfloat16)


def _tokenizer() -> dict[str, object]:
    document = json.loads((SAMPLE / "tokenizer.json").read_text())
    known = document["model"]["vocab"]
    known |= {f"<{index}>": index for index in range(len(known), VOCABULARY)}
    return document
