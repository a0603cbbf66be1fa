"""The networks of references, in checkpoints of other forms: the numbers must stay the same.

Each form was held against transformers once, by loading it there.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes  # noqa: F401 (by which numpy knows bfloat16)
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pitcrew_builder.spec import Parallelism
from tests.golden.conftest import SOLE, EngineOf
from tests.golden.test_goldens import CLOSE

DATA = Path(__file__).parent / "data"
Config: TypeAlias = dict[str, Any]
Tensors: TypeAlias = dict[str, np.ndarray]
Disguise: TypeAlias = Callable[[Config, Tensors], tuple[Config, Tensors]]

GEMMA3_KEPT = (
    "head_dim", "hidden_size", "intermediate_size", "layer_types", "model_type",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "query_pre_attn_scalar",
    "sliding_window", "vocab_size",
)  # fmt: skip
"""What published Gemma 3 configs say of the language model, and sizes that are ours."""

PICTURES: Tensors = {
    "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": np.ones((2, 2), "f4"),
    "multi_modal_projector.mm_input_projection_weight": np.ones((2, 64), "f4"),
}


def _published_gemma3(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    text = {key: config[key] for key in GEMMA3_KEPT}
    text["rope_scaling"] = {"factor": 8.0, "rope_type": "linear"}
    named = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    whole = {"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": text}
    return whole | {"vision_config": {"model_type": "siglip_vision_model"}}, named | PICTURES


def _renamed_gemma3(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    prefix = "model.language_model."
    named = {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
    pictures = {f"model.{name}": tensor for name, tensor in PICTURES.items()}
    return {"model_type": "gemma3", "text_config": config}, named | pictures


def _mistral3(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    named = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    return {"model_type": "mistral3", "text_config": config}, named | PICTURES


def _tied_in_words(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    return config | {"tie_word_embeddings": True}, tensors


def _tied_by_the_head(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    bare = dict(tensors)
    bare["lm_head.weight"] = bare.pop("model.embed_tokens.weight")
    return config, bare


def _tied_twice(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    return config, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}


def _with_published_code(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    code = {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "microsoft/Phi-4-mini--modeling_phi3.Phi3ForCausalLM",
        "AutoTokenizer": "Xenova/gpt-4o",
    }
    return config | {"auto_map": code}, tensors


def _one_more_token(config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
    longer = {
        name: np.concatenate([tensor, tensor[:1]])
        if len(tensor) == config["vocab_size"]
        else tensor
        for name, tensor in tensors.items()
    }
    return config | {"vocab_size": config["vocab_size"] + 1}, longer


TP4 = Parallelism(tensor=4)
GUISES: dict[str, tuple[str, Disguise, Parallelism]] = {
    "gemma 3 with pictures, as published": ("gemma3", _published_gemma3, SOLE),
    "gemma 3 with pictures, as named since": ("gemma3", _renamed_gemma3, SOLE),
    "a multimodal mistral": ("mistral-window", _mistral3, SOLE),
    "two matrices that are said to be tied": ("llama3", _tied_in_words, SOLE),
    "tied, and only the head is there": ("llama-tied", _tied_by_the_head, SOLE),
    "tied, and both are there": ("llama-tied", _tied_twice, SOLE),
    "phi with the code that it was published with": ("phi3", _with_published_code, SOLE),
    "ranks with unlike parts of the vocabulary": ("llama3", _one_more_token, TP4),
    "the same, tied": ("llama-tied", _one_more_token, Parallelism(tensor=2, pipeline=2)),
    "the same, of a mixture": ("qwen3-moe", _one_more_token, Parallelism(tensor=2, expert=2)),
}


@pytest.mark.parametrize("name", GUISES)
def test_another_form_is_the_same_network(name: str, tmp_path: Path, engine_of: EngineOf) -> None:
    model, disguise, split = GUISES[name]
    checkpoint = _disguised(DATA / model, tmp_path / f"{model}-disguised", disguise)
    with np.load(DATA / model / "expected.npz") as data:
        prompts, expected = data["prompt"].tolist(), data["logits"]
    found = engine_of(checkpoint, 7, split).batch(2).feed(prompts)
    assert np.abs(np.stack(found)[..., : expected.shape[-1]] - expected).max() <= CLOSE


def _disguised(source: Path, target: Path, disguise: Disguise) -> Path:
    shutil.copytree(source, target)
    tensors: Tensors = {}
    for file in target.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    config, tensors = disguise(json.loads((target / "config.json").read_text()), tensors)
    (target / "config.json").write_text(json.dumps(config))
    save_file(tensors, target / "model.safetensors")
    return target
