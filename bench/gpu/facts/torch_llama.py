"""A decode step of a Llama in plain PyTorch, in a CUDA graph: a yardstick for plans.

Random weights, keys and values that lie side by side, joined projections, PyTorch's own attention and
norm. What it computes is of no use; what it reads and multiplies is what a Llama does.
"""

from collections.abc import Callable

import torch
from saying import Fact
from torch.nn import functional
from torch_replay import replayed

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def yardstick(
    fact: Fact, config: dict[str, object], precision: str, batches: list[int], contexts: list[int]
) -> None:
    """A line for each batch and context."""
    model = Llama(config, TYPES[precision])
    for context in contexts:
        for batch in batches:
            milliseconds = replayed(model.step(batch, context))
            fact.say(
                f"PyTorch {torch.__version__}: batch {batch:3} context {context:5}",
                f"graph {milliseconds:.3f} ms, {batch / milliseconds * 1e3:.0f} tokens/s",
            )


class Llama:
    """Its weights."""

    def __init__(self, config: dict[str, object], dtype: torch.dtype) -> None:
        self.dtype, self.hidden = dtype, config["hidden_size"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.dim = self.hidden // self.heads
        wide, kv = config["intermediate_size"], self.kv_heads * self.dim
        self.layers = [
            [
                self.noise(self.hidden + 2 * kv, self.hidden),
                self.noise(self.hidden, self.hidden),
                self.noise(2 * wide, self.hidden),
                self.noise(self.hidden, wide),
            ]
            for _ in range(config["num_hidden_layers"])
        ]
        self.embedding = self.noise(config["vocab_size"], self.hidden)
        self.ones = torch.ones(self.hidden, device="cuda", dtype=dtype)

    def noise(self, *shape: int) -> torch.Tensor:
        """Small enough to go through all layers."""
        values = torch.randn(shape, device="cuda", dtype=self.dtype)
        return values.mul_(shape[-1] ** -0.5)

    def step(self, batch: int, context: int) -> Callable[[], torch.Tensor]:
        """One step of decoding after `context` - 1 tokens."""
        shape = (batch, self.kv_heads, context, self.dim)
        caches = [(self.noise(*shape), self.noise(*shape)) for _ in self.layers]
        angles = torch.randn(batch, 1, self.dim, device="cuda", dtype=self.dtype)
        ids = torch.randint(0, self.embedding.shape[0], (batch,), device="cuda")
        widths = [self.hidden, self.kv_heads * self.dim, self.kv_heads * self.dim]

        def turned(x: torch.Tensor) -> torch.Tensor:
            low, high = x.chunk(2, -1)
            return x * angles + torch.cat([-high, low], -1) * angles

        def run() -> torch.Tensor:
            rows = self.embedding[ids]
            for (qkv, out, gate_up, down), (keys, values) in zip(self.layers, caches, strict=True):
                q, k, v = (self.norm(rows) @ qkv.T).split(widths, -1)
                keys[:, :, -1] = turned(k.view(batch, self.kv_heads, self.dim))
                values[:, :, -1] = v.view(batch, self.kv_heads, self.dim)
                query = turned(q.view(batch, self.heads, self.dim)).unsqueeze(2)
                mixed = functional.scaled_dot_product_attention(
                    query, keys, values, enable_gqa=True
                )
                rows = rows + mixed.reshape(batch, self.hidden) @ out.T
                gate, up = (self.norm(rows) @ gate_up.T).chunk(2, -1)
                rows = rows + (functional.silu(gate) * up) @ down.T
            return (self.norm(rows) @ self.embedding.T).float()

        return run

    def norm(self, rows: torch.Tensor) -> torch.Tensor:
        """RMS norm."""
        return functional.rms_norm(rows, (self.hidden,), self.ones, 1e-5)
