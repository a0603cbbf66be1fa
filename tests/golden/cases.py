"""The tiny checkpoints that references are made of: one entry for each variation of a family.

Plain data, so that tests may read it too. Keys are directory names; `config` are keyword arguments
of transformers' configuration class for `model_type`.
"""

from dataclasses import dataclass, field
from typing import Any

SMALL: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}

THETA = {"rope_theta": 10000.0}
FACTORS = [1.0, 1.1, 1.3, 1.7, 2.2, 3.0, 4.0, 5.5]


@dataclass(frozen=True, slots=True)
class Case:
    """One checkpoint."""

    model_type: str
    config: dict[str, Any]
    dtype: str = "bfloat16"
    """What the weights are stored as; the reference computes in float32 with the same values."""

    mixed: bool = False
    """Store some of the tensors in other types than `dtype`."""

    shards: int = 1
    legacy: bool = False
    """Write the rotary keys of `config.json` as transformers 4 did."""

    bare: bool = False
    """Leave keys that have their default out of `config.json`."""

    mxfp4: bool = False
    """Store the experts in MXFP4."""

    length: int | None = None
    """`maxSequenceLength` to build with, where the default would select another network."""

    extra: dict[str, Any] = field(default_factory=dict)
    """Keys to add to `config.json` afterwards."""


def _rope(kind: str, **keys: object) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, **THETA, **keys}}


def _case(model_type: str, case: dict[str, Any] | None = None, **config: object) -> Case:
    return Case(model_type, SMALL | config, **(case or {}))


CASES: dict[str, Case] = {
    # Llama: what Llama 2 and 3 vary, and every way to scale rotations.
    "llama-biases": _case(
        "llama", num_key_value_heads=4, attention_bias=True, mlp_bias=True, **_rope("default")
    ),
    "llama-sharded": _case("llama", {"shards": 3}, tie_word_embeddings=True, head_dim=32),
    "llama-one-kv-head": _case("llama", {"dtype": "float16"}, num_key_value_heads=1),
    "llama-linear": _case("llama", {"legacy": True}, **_rope("linear", factor=4.0)),
    "llama-dynamic": _case("llama", **_rope("dynamic", factor=4.0)),
    "llama-yarn": _case(
        "llama", **_rope("yarn", factor=8.0, original_max_position_embeddings=32)
    ),
    "llama-yarn-mscale": _case(
        "llama",
        **_rope(
            "yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.7,
            mscale_all_dim=0.4, beta_fast=16, beta_slow=2, truncate=False,
        ),
    ),
    "llama-proportional": _case(
        "llama", head_dim=24, **_rope("proportional", partial_rotary_factor=0.3, factor=2.0)
    ),
    "llama-longrope": _case(
        "llama",
        **_rope(
            "longrope", original_max_position_embeddings=52, factor=4.0,
            short_factor=FACTORS, long_factor=FACTORS[::-1],
        ),
    ),
    "llama-gelu": _case("llama", hidden_act="gelu", **_rope("default")),
    # Mistral: a window over all layers, or none.
    "mistral-window": _case("mistral", sliding_window=11, head_dim=32, **_rope("default")),
    "mistral-no-window": _case("mistral", sliding_window=None, num_key_value_heads=4),
    # Qwen: windows of later layers, and of named ones.
    "qwen2-window": _case(
        "qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=1,
        tie_word_embeddings=True,
    ),
    "qwen2-layer-types": _case(
        "qwen2", use_sliding_window=True, sliding_window=13,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "qwen3-window": _case(
        "qwen3", use_sliding_window=True, sliding_window=10, max_window_layers=0, head_dim=24,
        attention_bias=True, tie_word_embeddings=True,
    ),
    "qwen3-moe": _case(
        "qwen3_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=16,
        norm_topk_prob=True,
    ),
    "qwen3-moe-mixed": _case(
        "qwen3_moe", num_experts=5, num_experts_per_tok=3, moe_intermediate_size=24,
        num_hidden_layers=3, decoder_sparse_step=2, norm_topk_prob=False, attention_bias=True,
        intermediate_size=48, use_sliding_window=True, sliding_window=12,
    ),
    "qwen3-moe-dense-first": _case(
        "qwen3_moe", num_experts=4, num_experts_per_tok=1, moe_intermediate_size=32,
        mlp_only_layers=[0], head_dim=32,
    ),
    # Mixtral.
    "mixtral-window": _case(
        "mixtral", num_local_experts=5, num_experts_per_tok=3, intermediate_size=32,
        sliding_window=14, head_dim=24, tie_word_embeddings=True,
    ),
    # Gemma 2 and 3: soft caps, alternating windows and rotations, sandwich norms.
    "gemma2": _case(
        "gemma2", head_dim=32, sliding_window=12, query_pre_attn_scalar=24,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0, tie_word_embeddings=True,
    ),
    "gemma2-no-caps": _case(
        "gemma2", head_dim=16, sliding_window=64, query_pre_attn_scalar=16, attention_bias=True,
        attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=True,
        num_key_value_heads=1, layer_types=["full_attention", "sliding_attention"],
    ),
    "gemma3": _case(
        "gemma3_text", head_dim=24, sliding_window=12, query_pre_attn_scalar=32,
        num_hidden_layers=3, intermediate_size=64, tie_word_embeddings=True,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        },
    ),
    "gemma3-legacy": _case(
        "gemma3_text", {"legacy": True}, head_dim=16, sliding_window=9, query_pre_attn_scalar=16,
        num_hidden_layers=3, intermediate_size=64, tie_word_embeddings=True,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        final_logit_softcapping=4.0, attention_bias=True,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 300000.0},
        },
    ),
    "gemma3-longrope": _case(
        "gemma3_text", head_dim=16, sliding_window=12, query_pre_attn_scalar=16,
        intermediate_size=64, tie_word_embeddings=True,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {
                "rope_type": "longrope", "rope_theta": 1000000.0, "attention_factor": 1.2,
                "original_max_position_embeddings": 50,
                "short_factor": FACTORS, "long_factor": FACTORS[::-1],
            },
        },
    ),
    # Phi 3 and 4: fused projections, partial rotation, two sets of rotation factors.
    "phi3": _case("phi3", num_key_value_heads=4, sliding_window=15, **_rope("default")),
    "phi3-partial": _case(
        "phi3", tie_word_embeddings=True, **_rope("default", partial_rotary_factor=0.5)
    ),
    # Prompts of 40 and 24 tokens after them: texts that are short, outgrow that, or are long.
    "phi3-short": _case(
        "phi3", original_max_position_embeddings=128,
        **_rope("longrope", short_factor=FACTORS, long_factor=FACTORS[::-1]),
    ),
    "phi3-outgrowing": _case(
        "phi3", original_max_position_embeddings=48,
        **_rope("longrope", short_factor=FACTORS, long_factor=FACTORS[::-1]),
    ),
    "phi3-outgrowing-at-once": _case(
        "phi3", {"legacy": True}, original_max_position_embeddings=40, num_key_value_heads=1,
        **_rope("longrope", short_factor=FACTORS, long_factor=FACTORS[::-1]),
    ),
    "phi3-only-short": _case(
        "phi3", {"length": 96}, original_max_position_embeddings=96,
        **_rope("longrope", short_factor=FACTORS, long_factor=FACTORS[::-1]),
    ),
    "phi3-long": _case(
        "phi3", original_max_position_embeddings=32,
        **_rope(
            "longrope", short_factor=FACTORS[:6], long_factor=FACTORS[2:],
            partial_rotary_factor=0.75,
        ),
    ),
    # OLMo 2: norms after the blocks, queries and keys normalized over their whole width.
    "olmo2": _case("olmo2", num_key_value_heads=4),
    "olmo2-grouped": _case("olmo2", attention_bias=True, tie_word_embeddings=True, head_dim=32),
    # Granite: four multipliers.
    "granite": _case(
        "granite", embedding_multiplier=6.0, attention_multiplier=0.17, residual_multiplier=0.4,
        logits_scaling=3.0, tie_word_embeddings=True,
    ),
    "granite-biases": _case(
        "granite", embedding_multiplier=2.0, attention_multiplier=0.3, residual_multiplier=0.22,
        logits_scaling=0.5, attention_bias=True, mlp_bias=True, **_rope("linear", factor=2.0),
    ),
    # StarCoder 2: layer norms, biases, a feed-forward without gate.
    "starcoder2": _case("starcoder2", sliding_window=13, tie_word_embeddings=True),
    "starcoder2-no-bias": _case("starcoder2", use_bias=False, num_key_value_heads=1),
    # GPT-OSS: sinks, clamped experts with biases, alternating windows.
    "gpt-oss": _case(
        "gpt_oss", num_local_experts=4, num_experts_per_tok=2, head_dim=16, intermediate_size=32,
        sliding_window=10, swiglu_limit=1.5,
        **_rope(
            "yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=32.0,
            beta_slow=1.0, truncate=False,
        ),
    ),
    "gpt-oss-mxfp4": _case(
        "gpt_oss", {"mxfp4": True}, num_local_experts=3, num_experts_per_tok=2, head_dim=32,
        intermediate_size=64, sliding_window=64, tie_word_embeddings=False,
        layer_types=["full_attention", "sliding_attention"], **_rope("default"),
    ),
}  # fmt: skip
