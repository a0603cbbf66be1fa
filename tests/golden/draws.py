"""Random configurations of every family, as their writers may legally put them. Plain data.

`fuzz` builds them with transformers. A draw that transformers itself refuses was not legal and is
skipped there, so this module may be generous.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from pitcrew_builder.spec import Parallelism
from tests.golden.cases import Case

ACTIVATIONS = (
    "silu",
    "swish",
    "relu",
    "relu2",
    "gelu",
    "gelu_pytorch_tanh",
    "gelu_new",
    "gelu_fast",
    "gelu_accurate",
    "gelu_python",
    "quick_gelu",
)
FULL, SLIDING = "full_attention", "sliding_attention"
Config = dict[str, Any]


def draw(family: str, rng: Random) -> Case:
    """One checkpoint of the family."""
    config = _sizes(rng) | _FAMILIES[family](rng)
    if "rope_parameters" not in config:
        config["rope_parameters"] = _rope(rng, config)
    config = {key: value for key, value in config.items() if value is not None or key in _NULLABLE}
    bare = rng.random() < 0.4
    if bare:
        left_out = [key for key in _OPTIONAL if rng.random() < 0.3]
        config = {key: value for key, value in config.items() if key not in left_out}
    packed = family == "gpt_oss" and config["hidden_size"] % 32 == 0 and rng.random() < 0.5
    return Case(
        family,
        config,
        dtype=rng.choice(["bfloat16", "float16", "float32"]),
        mixed=not packed and rng.random() < 0.25,
        shards=1 if packed else rng.choice([1, 1, 3]),
        # The older form cannot tell GPT-OSS that it has a plain rotation.
        legacy=not packed and rng.random() < 0.4,
        bare=bare,
        mxfp4=packed,
        length=config["max_position_embeddings"],
    )


def draw_split(rng: Random) -> Parallelism:
    """How ranks share it, which not every checkpoint allows."""
    splits = [(1, 1, 1)] * 4 + [(2, 1, 1), (4, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2)]
    splits += [(3, 1, 1), (1, 3, 1), (1, 1, 3), (2, 3, 1), (1, 2, 2), (2, 2, 2)]
    tensor, pipeline, expert = rng.choice(splits)
    return Parallelism(tensor=tensor, pipeline=pipeline, expert=expert)


def draw_adapter(case: Case, rng: Random) -> Config:
    """Settings of PEFT's `LoraConfig` for that checkpoint."""
    layers = case.config["num_hidden_layers"]
    modules = _MODULES.get(case.model_type, _MODULES["llama"])
    untied = not case.config.get("tie_word_embeddings", True)
    apart = ["embed_tokens", "lm_head"] if untied else []
    chosen = rng.sample([*modules, *apart], rng.randint(1, len(modules)))
    settings: Config = {
        "r": rng.choice([1, 3, 8]),
        "lora_alpha": rng.choice([1, 5, 16.5]),
        "use_rslora": rng.random() < 0.4,
        "target_modules": "all-linear" if rng.random() < 0.15 else chosen,
        "bias": rng.choice(["none", "none", "all", "lora_only"]),
        "rank_pattern": dict(_pattern(rng, modules, layers, (1, 2, 9))),
        "alpha_pattern": dict(_pattern(rng, modules, layers, (2, 7.5))),
        "modules_to_save": [name for name in apart if name not in chosen and rng.random() < 0.3],
    }
    if layers > 1 and settings["target_modules"] == chosen and rng.random() < 0.2:
        settings |= {"layers_to_transform": [rng.randrange(layers)], "layers_pattern": "layers"}
    experts = case.config.get("num_local_experts", case.config.get("num_experts", 0))
    # PEFT adds the change of a stack of one expert without turning it round.
    if experts > 1 and not case.mxfp4 and rng.random() < 0.5:
        names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        settings["target_parameters"] = rng.sample(names, rng.randint(1, 2))
    return {key: value for key, value in settings.items() if value not in ([], {})}


def _pattern(
    rng: Random, modules: tuple[str, ...], layers: int, values: tuple[float, ...]
) -> Iterator[tuple[str, float]]:
    """Modules by the end of their names, whole or as expressions."""
    for _ in range(rng.choice([0, 0, 1, 2])):
        name, layer = rng.choice(modules), rng.randrange(layers)
        keys = [
            name,
            rf"layers\.{layer}\..*{name}",
            rf"^model.layers.{layer}.self_attn.{name}",
            ".*",
        ]
        yield rng.choice(keys), rng.choice(values)


_MODULES = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "starcoder2": ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
    "mixtral": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen3_moe": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gpt_oss": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
"""What adapters change, by PEFT's names; families that are missing have those of Llama."""

_OPTIONAL = (
    "attention_bias",
    "attn_logit_softcapping",
    "attention_multiplier",
    "decoder_sparse_step",
    "embedding_multiplier",
    "final_logit_softcapping",
    "hidden_act",
    "hidden_activation",
    "layer_types",
    "logits_scaling",
    "max_window_layers",
    "mlp_bias",
    "mlp_only_layers",
    "norm_epsilon",
    "norm_topk_prob",
    "num_experts_per_tok",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "swiglu_limit",
    "tie_word_embeddings",
    "use_bias",
    "use_sliding_window",
)
"""Keys that published configurations leave to their family's default."""


_NULLABLE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping")


def _sizes(rng: Random) -> Config:
    heads = rng.choice([1, 2, 3, 4, 6, 8])
    kv_heads = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
    free = rng.random() < 0.6
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": heads * rng.choice([8, 10, 16])
        if not free
        else heads * rng.choice([4, 7, 16]),
        "head_dim": rng.choice([6, 8, 16, 24, 40]) if free else None,
        "intermediate_size": rng.choice([17, 32, 52, 96]),
        "num_hidden_layers": rng.randint(1, 4),
        "vocab_size": rng.choice([67, 128, 201, 256]),
        "max_position_embeddings": rng.choice([128, 192, 256]),
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-3]),
        "hidden_act": rng.choice(("silu", "silu", *ACTIVATIONS)),
        "tie_word_embeddings": rng.random() < 0.5,
        "bos_token_id": 1,
        "eos_token_id": rng.choice([2, [2, 5]]),
        "pad_token_id": 0,
    }


def _rope(rng: Random, config: Config, kinds: tuple[str, ...] = ()) -> Config:
    every = ("default", "linear", "dynamic", "llama3", "yarn", "proportional", "longrope")
    kind = rng.choice(kinds or every)
    most = config["max_position_embeddings"]
    original = rng.choice([32, 64, most])
    dim = config["head_dim"] or config["hidden_size"] // config["num_attention_heads"]
    rope: Config = {"rope_type": kind, "rope_theta": rng.choice([1e4, 5e5, 1234.5])}
    if kind in ("linear", "dynamic", "llama3", "yarn"):
        rope["factor"] = rng.choice([1.0, 2, 4.0, 8.0, 32.0])
    if kind == "proportional":
        rope |= _some(rng, factor=rng.choice([1.0, 4.0]), partial_rotary_factor=rng.random())
    if kind in ("llama3", "yarn") and rng.random() < 0.9:
        rope["original_max_position_embeddings"] = original
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": rng.choice([2.0, 4.0])}
    if kind == "yarn":
        rope |= _some(
            rng,
            beta_fast=rng.choice([16, 32.0]),
            beta_slow=rng.choice([1, 2.0]),
            attention_factor=rng.choice([0.7, 1.0, 1.3]),
            truncate=rng.random() < 0.5,
            mscale=rng.choice([0.707, 1.0]),
            mscale_all_dim=rng.choice([0.0, 1.0]),
        )
    if kind == "longrope":
        for name in ("short_factor", "long_factor"):
            rope[name] = [round(1 + 0.3 * i + rng.random(), 3) for i in range(dim // 2)]
        # Texts of the fuzzer are long, short, or outgrow short ones.
        rope["original_max_position_embeddings"] = rng.choice([original, 72, 76])
        rope |= _some(rng, factor=rng.choice([1.0, 4.0]), attention_factor=rng.choice([1.0, 1.2]))
    return rope


def _some(rng: Random, **values: object) -> Config:
    return {key: value for key, value in values.items() if rng.random() < 0.5}


def _layer_types(rng: Random, config: Config) -> list[str] | None:
    return (
        None if rng.random() < 0.4 else rng.choices([FULL, SLIDING], k=config["num_hidden_layers"])
    )


def _window(rng: Random, *, always: bool = False) -> int | None:
    return rng.choice([1, 5, 16, 33, 100] + ([] if always else [None, None]))


def _llama(rng: Random) -> Config:
    return {
        "attention_bias": rng.random() < 0.3,
        "mlp_bias": rng.random() < 0.3,
        "pretraining_tp": 1,
    }


def _mistral(rng: Random) -> Config:
    return {"sliding_window": _window(rng)}


def _windows_from(rng: Random) -> Config:
    layers = rng.randint(1, 4)
    used = rng.random() < 0.6
    config: Config = {
        "num_hidden_layers": layers,
        "use_sliding_window": used,
        "sliding_window": _window(rng, always=used),
        "max_window_layers": rng.randint(0, 4),
    }
    if used:
        config["layer_types"] = _layer_types(rng, config)
    return config


def _qwen2(rng: Random) -> Config:
    return _windows_from(rng)


def _qwen3(rng: Random) -> Config:
    return _windows_from(rng) | {
        "head_dim": rng.choice([6, 8, 16, 24]),
        "attention_bias": rng.random() < 0.3,
    }


def _experts(rng: Random, field: str) -> Config:
    count = rng.choice([1, 2, 3, 5, 8])
    return {field: count, "num_experts_per_tok": rng.randint(1, count), "hidden_act": "silu"}


def _mixtral(rng: Random) -> Config:
    return {"sliding_window": _window(rng)} | _experts(rng, "num_local_experts")


def _qwen3_moe(rng: Random) -> Config:
    return _experts(rng, "num_experts") | {
        "head_dim": rng.choice([6, 8, 16, 24]),
        "moe_intermediate_size": rng.choice([8, 24, 33]),
        "norm_topk_prob": rng.random() < 0.5,
        "decoder_sparse_step": rng.choice([1, 1, 2, 3]),
        "mlp_only_layers": rng.choice([[], [0], [1, 2]]),
        "attention_bias": rng.random() < 0.3,
        "use_sliding_window": rng.random() < 0.5,
        "sliding_window": _window(rng),
        "max_window_layers": 2,
    }


def _gemma(rng: Random) -> Config:
    layers = rng.randint(1, 7)
    return {
        "num_hidden_layers": layers,
        "layer_types": _layer_types(rng, {"num_hidden_layers": layers}),
        "head_dim": rng.choice([6, 8, 16, 24]),
        "hidden_activation": rng.choice(("gelu_pytorch_tanh", *ACTIVATIONS)),
        "query_pre_attn_scalar": rng.choice([7, 16, 144]),
        "sliding_window": _window(rng, always=True),
        "attention_bias": rng.random() < 0.3,
        "tie_word_embeddings": rng.random() < 0.8,
        "attn_logit_softcapping": rng.choice([None, 5.0, 50.0]),
        "final_logit_softcapping": rng.choice([None, 2.0, 30.0]),
    }


def _gemma3(rng: Random) -> Config:
    config = _gemma(rng)
    sizes = {"max_position_embeddings": 128, "head_dim": config["head_dim"]}
    kinds = ("default", "linear", "dynamic", "llama3", "yarn", "proportional", "longrope")
    local = ("default", "default", *kinds[:-1])
    return config | {
        "max_position_embeddings": 128,
        "rope_parameters": {FULL: _rope(rng, sizes, kinds), SLIDING: _rope(rng, sizes, local)},
    }


def _phi3(rng: Random) -> Config:
    heads = rng.choice([2, 4])
    dim = rng.choice([8, 16, 24])
    part = rng.choice([1.0, 1.0, 0.75, 0.5, 0.4])
    rotated = int(dim * part)
    config: Config = {
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2]),
        "hidden_size": heads * dim,
        "head_dim": None,
        "max_position_embeddings": 192,
        "original_max_position_embeddings": rng.choice([32, 72, 76, 192]),
        "sliding_window": _window(rng),
    }
    sizes = config | {"head_dim": rotated}
    rope = _rope(rng, sizes, ("default", "longrope"))
    rope.pop("original_max_position_embeddings", None)
    return config | {"rope_parameters": rope | {"partial_rotary_factor": part}}


def _olmo2(rng: Random) -> Config:
    return {"attention_bias": rng.random() < 0.3}


def _granite(rng: Random) -> Config:
    return {
        "attention_bias": rng.random() < 0.3,
        "mlp_bias": rng.random() < 0.3,
        "embedding_multiplier": rng.choice([1.0, 12, 6.0]),
        "attention_multiplier": rng.choice([1.0, 0.0078125, 0.3]),
        "residual_multiplier": rng.choice([1.0, 0.22]),
        "logits_scaling": rng.choice([1.0, 8, 0.5]),
    }


def _starcoder2(rng: Random) -> Config:
    return {
        "sliding_window": _window(rng),
        "use_bias": rng.random() < 0.6,
        "norm_epsilon": rng.choice([1e-5, 1e-3]),
        "rms_norm_eps": None,
    }


def _gpt_oss(rng: Random) -> Config:
    layers = rng.randint(1, 4)
    return _experts(rng, "num_local_experts") | {
        "num_hidden_layers": layers,
        "layer_types": _layer_types(rng, {"num_hidden_layers": layers}),
        "hidden_size": rng.choice([32, 64, 48]),
        "intermediate_size": rng.choice([32, 64]),
        "num_attention_heads": rng.choice([2, 4]),
        "num_key_value_heads": rng.choice([1, 2]),
        "head_dim": rng.choice([8, 16, 24]),
        "sliding_window": _window(rng, always=True),
        "swiglu_limit": rng.choice([7.0, 1.0]),
        "attention_bias": rng.random() < 0.8,
    }


_FAMILIES = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "gemma2": _gemma,
    "gemma3_text": _gemma3,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "granite": _granite,
    "starcoder2": _starcoder2,
    "gpt_oss": _gpt_oss,
}
NAMES = tuple(_FAMILIES)
