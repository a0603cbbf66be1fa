"""Makes the references of merged adapters in `data/adapters/`, with PEFT, over checkpoints of `data/`.

    reference/bin/pip install torch transformers==5.23.0 safetensors peft
    reference/bin/python -m tests.golden.generate_adapters [ADAPTER ...]

Logits come from PEFT's own forward pass, in which nothing is merged.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]

DATA = Path(__file__).parent / "data"
LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-lora": ("llama3", {"r": 4, "lora_alpha": 12, "target_modules": LAYER}),
    "llama-rslora": (
        "llama-biases",
        {
            "r": 3,
            "lora_alpha": 2,
            "use_rslora": True,
            "bias": "lora_only",
            "target_modules": ["q_proj", "down_proj", "embed_tokens"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 5},
            "alpha_pattern": {"down_proj": 7},
            "modules_to_save": ["lm_head"],
        },
    ),
    "mixtral-experts": (
        "mixtral",
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
    "mixtral-all": (
        "mixtral",
        {
            "r": 2,
            "lora_alpha": 3,
            "target_modules": "all-linear",
            # The router is a parameter for PEFT, so that only the first one names it.
            "alpha_pattern": {"mlp.gate.weight": 5, "mlp.gate": 7},
        },
    ),
    "qwen3-moe-experts": (
        "qwen3-moe-mixed",
        {
            "r": 3,
            "lora_alpha": 5,
            "use_rslora": True,
            "target_modules": ["o_proj"],
            "target_parameters": ["mlp.experts.down_proj"],
            "alpha_pattern": {"experts.down_proj": 4},
        },
    ),
    "gpt-oss-experts": (
        "gpt-oss",
        {
            "r": 2,
            "lora_alpha": 3,
            "target_modules": [],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            "rank_pattern": {"experts.down_proj": 5},
        },
    ),
    "phi3-lora": (
        "phi3",
        {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "gate_up_proj"]},
    ),
}


@torch.no_grad()
def generate(name: str, base: str, settings: dict[str, Any]) -> None:
    """Write one adapter and its reference."""
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        DATA / base,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    for key, value in model.named_parameters():
        # Fresh adapters change nothing: their second matrix is 0.
        trained = settings.get("bias") and key.endswith("bias") and "q_proj" in key
        if "lora_" in key or "modules_to_save" in key or trained:
            value.add_(0.1 * torch.randn_like(value))
    target = DATA / "adapters" / name
    model.save_pretrained(target)
    (target / "README.md").unlink(missing_ok=True)
    config = json.loads((target / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    with np.load(DATA / base / "expected.npz") as data:
        prompt = data["prompt"]
    logits = model(torch.from_numpy(prompt), use_cache=False).logits.numpy()
    np.savez_compressed(
        target / "expected.npz", prompt=prompt, logits=logits, peft=peft.__version__
    )


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ADAPTERS:
        generate(wanted, *ADAPTERS[wanted])
