"""A Llama checkpoint as a GGUF file for llama.cpp. Runs in an environment of its own, with `gguf`.

    python to_gguf.py CHECKPOINT FILE [fp32|int4|int4-head8]

With `int4` the layers' matrices become Q4_0: 4 bits in blocks of 32, as in the other engines; the
embedding and the head stay as they are there too. With `int4-head8` the head becomes Q8_0.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes  # noqa: F401 - lets NumPy read bfloat16
import numpy as np
from safetensors import safe_open

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def main() -> None:
    """Convert."""
    checkpoint, target, form = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(str(target), "llama")
    _describe(writer, config)
    _add_tokenizer(writer, json.loads((checkpoint / "tokenizer.json").read_text()), config)
    for name, tensor in _tensors(checkpoint, config):
        kind = _codes(form, name) if tensor.ndim == 2 else None
        if kind is not None:
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _codes(form: str, name: str) -> gguf.GGMLQuantizationType | None:
    """What a matrix is stored as; None: as it is."""
    if form.startswith("int4") and name.startswith("blk."):
        return gguf.GGMLQuantizationType.Q4_0
    is_head = name == f"{ENDS['lm_head']}.weight"
    return gguf.GGMLQuantizationType.Q8_0 if form == "int4-head8" and is_head else None


def _describe(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name(config.get("name", "bench"))
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]
) -> None:
    known = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    special = {each["id"] for each in tokenizer["added_tokens"]}
    kinds = [
        gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in sorted(known)
    ]
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([known[index] for index in sorted(known)])
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def _tensors(checkpoint: Path, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    with safe_open(checkpoint / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 - a file is no mapping
            tensor = file.get_tensor(name).astype(np.float32)
            if name.endswith("q_proj.weight"):
                tensor = _interleaved(tensor, config["num_attention_heads"])
            if name.endswith("k_proj.weight"):
                tensor = _interleaved(tensor, config["num_key_value_heads"])
            yield _renamed(name), tensor


def _renamed(name: str) -> str:
    bare = name.removesuffix(".weight")
    if bare in ENDS:
        return f"{ENDS[bare]}.weight"
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", bare)
    assert found, name
    return f"blk.{found[1]}.{NAMES[found[2]]}.weight"


def _interleaved(matrix: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours, the checkpoint the halves of a head: rows are dealt out anew."""
    split = matrix.reshape(heads, 2, matrix.shape[0] // heads // 2, matrix.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(matrix.shape)


if __name__ == "__main__":
    main()
