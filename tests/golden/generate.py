"""Makes the references in `data/`: tiny random checkpoints and what transformers computes of them.

Runs where torch and transformers are installed, which the project itself never needs:

    python -m venv reference && reference/bin/pip install torch transformers==5.23.0 safetensors
    reference/bin/python -m tests.golden.generate [CASE ...]

Attention is `eager`, arithmetic float32, the network is run over the whole text for every token, so
no cache takes part. Weights are rounded to the type that they are stored as first. A seed is taken
only if the best logit wins clearly all along the continuation: another summation order then still
chooses the same tokens.
"""

import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]
from safetensors.torch import load_file, save_file

from tests.golden.cases import CASES, Case

Floats: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]

DATA = Path(__file__).parent / "data"
_ALWAYS = ("architectures", "model_type")
"""Keys of every configuration."""
PROMPT, CONTINUATION, ROWS = 40, 24, 2
CLEAR = 2e-3
"""The best logit must win by this much, everywhere."""


def generate(name: str, case: Case) -> None:
    """Write one checkpoint and its reference."""
    for seed in range(1, 200):
        model = make_model(case, seed)
        packed = pack_experts(model) if case.mxfp4 else {}
        expected, margin = _reference(model, case, seed)
        if margin >= CLEAR:
            break
    else:
        raise SystemExit(f"{name}: no seed gives clear choices")
    target = DATA / name
    save(model, case, target, packed)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    np.savez_compressed(target / "expected.npz", **expected, **versions)
    size = sum(file.stat().st_size for file in target.iterdir())
    print(f"{name}: seed {seed}, margin {margin:.1e}, {size // 1024} KiB")


def make_model(case: Case, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(case.model_type, **case.config)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    stored = getattr(torch, case.dtype)
    with torch.no_grad():
        for name, value in model.named_parameters():
            # Norms, biases and sinks too: at their usual 1 and 0 a mistake with them would hide.
            if value.ndim == 1:
                value.add_(0.3 * torch.randn_like(value))
            else:
                value.normal_(0, 0.15)
            if "router" in name or name.endswith(".gate.weight"):
                value.mul_(3)
            value.copy_(value.to(stored).to(torch.float32))
    return model.float().eval()


@torch.no_grad()
def _reference(model: torch.nn.Module, case: Case, seed: int) -> tuple[dict[str, Any], float]:
    rng = np.random.default_rng(seed)
    prompt = rng.integers(3, case.config["vocab_size"], size=(ROWS, PROMPT))
    logits = model(torch.from_numpy(prompt), use_cache=False).logits
    margin, greedy = float("inf"), []
    for row in prompt:
        text = torch.from_numpy(row)[None]
        for _ in range(CONTINUATION):
            best = model(text, use_cache=False).logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            text = torch.cat([text, best.indices[:1][None]], dim=1)
        greedy.append(text[0, PROMPT:].numpy())
    expected = {"prompt": prompt, "logits": logits.numpy(), "greedy": np.stack(greedy)}
    return expected, margin


def save(model: torch.nn.Module, case: Case, target: Path, packed: dict[str, Any]) -> None:
    for old in target.glob("*") if target.is_dir() else ():
        old.unlink()
    shard = f"{80 if case.shards > 1 else 10_000}KB"
    model.to(getattr(torch, case.dtype)).save_pretrained(target, max_shard_size=shard)
    if packed:
        _replace_experts(target / "model.safetensors", packed)
    if case.mixed:
        _mix_types(target)
    file = target / "config.json"
    config = json.loads(file.read_text()) | case.extra
    if case.bare:
        default, kept = type(model.config)().to_dict(), {*case.config, *case.extra, *_ALWAYS}
        config = {
            key: value
            for key, value in config.items()
            # Layers' types follow from the other keys.
            if key in kept or (default.get(key) != value and key != "layer_types")
        }
    if packed:
        config["quantization_config"] = {"quant_method": "mxfp4"}
    if case.legacy and "rope_parameters" in config:
        _as_transformers_4(config)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _as_transformers_4(config: dict[str, Any]) -> None:
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    # transformers 5 overlooks the older word in Gemma 3's configs.
    word = "rope_type" if "rope_local_base_freq" in config else "type"
    config["rope_scaling"] = None if kind == "default" else {word: kind, **rope}


def pack_experts(model: torch.nn.Module) -> dict[str, Any]:
    """Round the experts to MXFP4 in place; the packed tensors by name."""
    packed = {}
    for name, value in model.named_parameters():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            # Checkpoints hold [experts, out, in / 32, 16]; the network holds [experts, in, out].
            matrix = value.detach().transpose(1, 2).contiguous().numpy()
            blocks, scales, rounded = _mxfp4(matrix)
            value.data.copy_(torch.from_numpy(rounded).transpose(1, 2))
            packed[f"{name}_blocks"] = torch.from_numpy(blocks)
            packed[f"{name}_scales"] = torch.from_numpy(scales)
    return packed


def _mxfp4(matrix: Floats) -> tuple[Bytes, Bytes, Floats]:
    """Nearest E2M1 values under a power of two for every 32 columns."""
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
    groups = matrix.reshape(*matrix.shape[:-1], -1, 32)
    power = np.ceil(np.log2(np.abs(groups).max(axis=-1, keepdims=True) / 6))
    scaled = groups / np.exp2(power)
    code = np.abs(np.abs(scaled)[..., None] - grid).argmin(axis=-1)
    rounded = (np.sign(scaled) * grid[code] * np.exp2(power)).reshape(matrix.shape)
    code = (code + 8 * (scaled < 0)).astype(np.uint8)
    blocks = code[..., ::2] | (code[..., 1::2] << 4)
    return blocks, (power[..., 0] + 127).astype(np.uint8), rounded.astype(np.float32)


def _mix_types(target: Path) -> None:
    """Every third tensor in each type."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    for file in sorted(target.glob("*.safetensors")):
        tensors = load_file(file)
        for index, (name, value) in enumerate(sorted(tensors.items())):
            tensors[name] = value.to(types[index % len(types)])
        save_file(tensors, file, metadata={"format": "pt"})


def _replace_experts(file: Path, packed: dict[str, Any]) -> None:
    tensors = load_file(file)
    for name in packed:
        tensors.pop(name.removesuffix("_blocks").removesuffix("_scales"), None)
    save_file(tensors | packed, file, metadata={"format": "pt"})


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CASES:
        generate(wanted, CASES[wanted])
