"""A Llama in NumPy, double precision, one sequence at once: slow, plain, and read from the paper.

The references of transformers cover a few configurations; this one covers their combinations.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


class NumpyLlama:
    """Computes logits from a config and tensors named as in a checkpoint."""

    def __init__(
        self,
        config: dict[str, Any],
        tensors: dict[str, npt.NDArray[Any]],
        cached: Callable[[str, Doubles], Doubles] = lambda name, x: x,
    ) -> None:
        """`cached` sees keys and values [tokens, kv_heads, D] and says what is attended to."""
        self.cached = cached
        self.config = config
        self.tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
        self.heads: int = config["num_attention_heads"]
        self.kv_heads: int = config["num_key_value_heads"]
        self.head_dim: int = config["head_dim"]

    def logits(self, tokens: list[int]) -> Doubles:
        """[len(tokens), vocab]."""
        hidden = self.tensors["model.embed_tokens.weight"][tokens]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            normed = self._norm(hidden, f"{prefix}.input_layernorm")
            hidden = hidden + self._attention(normed, f"{prefix}.self_attn")
            normed = self._norm(hidden, f"{prefix}.post_attention_layernorm")
            hidden = hidden + self._mlp(normed, f"{prefix}.mlp")
        head = "model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head"
        return self._linear(self._norm(hidden, "model.norm"), head)

    def _attention(self, x: Doubles, prefix: str) -> Doubles:
        count = len(x)
        queries = self._rotate(self._heads(x, f"{prefix}.q_proj", self.heads))
        keys = self._rotate(self._heads(x, f"{prefix}.k_proj", self.kv_heads))
        values = self._heads(x, f"{prefix}.v_proj", self.kv_heads)
        keys, values = self.cached(f"{prefix}.k", keys), self.cached(f"{prefix}.v", values)
        mixed = np.empty((count, self.heads, self.head_dim))
        for head in range(self.heads):
            shared = head * self.kv_heads // self.heads
            scores = queries[:, head] @ keys[:, shared].T / np.sqrt(self.head_dim)
            scores[np.triu_indices(count, k=1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, head] = weights / weights.sum(axis=1, keepdims=True) @ values[:, shared]
        return self._linear(mixed.reshape(count, -1), f"{prefix}.o_proj")

    def _mlp(self, x: Doubles, prefix: str) -> Doubles:
        gate = self._linear(x, f"{prefix}.gate_proj")
        gated = gate / (1 + np.exp(-gate)) * self._linear(x, f"{prefix}.up_proj")
        return self._linear(gated, f"{prefix}.down_proj")

    def _heads(self, x: Doubles, name: str, heads: int) -> Doubles:
        return self._linear(x, name).reshape(len(x), heads, self.head_dim)

    def _rotate(self, x: Doubles) -> Doubles:
        rope = self.config["rope_parameters"]
        frequencies = rope["rope_theta"] ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angles = np.outer(np.arange(len(x)), frequencies / rope.get("factor", 1.0))[:, None]
        low, high = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def _norm(self, x: Doubles, name: str) -> Doubles:
        scale = self.tensors[f"{name}.weight"]
        mean = (x * x).mean(axis=-1, keepdims=True)
        result: Doubles = x / np.sqrt(mean + self.config["rms_norm_eps"]) * scale
        return result

    def _linear(self, x: Doubles, name: str) -> Doubles:
        bias = self.tensors.get(f"{name}.bias", 0.0)
        result: Doubles = x @ self.tensors[f"{name}.weight"].T + bias
        return result
