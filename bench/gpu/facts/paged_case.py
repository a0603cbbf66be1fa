"""Random cases of paged attention, and what is right in float64."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
MASKED = -32752.0


@dataclass(frozen=True)
class Heads:
    """How a model attends."""

    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 64
    page: int = 16
    cap: float | None = None
    """Scores are bent to stay between this and its negative."""
    sinks: bool = False
    """Each head has a score that takes weight and gives nothing."""

    @property
    def width(self) -> int:
        """Of the queries of a token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of the keys, or the values, of a token."""
        return self.kv_heads * self.head_dim

    def inputs(
        self,
        batch: int,
        new: int,
        contexts: int | np.ndarray,
        window: int | None = None,
        seed: int = 0,
    ) -> Arrays:
        """Random tensors, shuffled pages; `contexts` are tokens, or the longest of random ones. With
        a `window` a token sees so many before it.
        """
        rng = np.random.default_rng(seed)

        def noise(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, dtype=np.float32)

        if isinstance(contexts, int):
            contexts = contexts - rng.integers(0, self.page, batch)
        blocks = -(-int(contexts.max()) // self.page)
        slots, fresh = np.arange(blocks * self.page), np.arange(new)
        place = np.concatenate(
            [np.broadcast_to(slots, (batch, slots.size)), contexts[:, None] + fresh], axis=1
        )
        real = np.concatenate([slots < contexts[:, None], np.ones((batch, new), bool)], axis=1)
        now = (contexts[:, None] + fresh)[:, :, None]
        seen = real[:, None] & (place[:, None] <= now)
        if window is not None:
            seen &= place[:, None] > now - window
        pool = (batch * blocks, self.page, self.kv_heads, self.head_dim)
        scale = {"scale": np.float32(self.head_dim**-0.5)}
        extra = scale | {"softcap": np.float32(self.cap)} if self.cap else {}
        if self.sinks:
            extra = scale | {"sinks": noise(self.heads)}
        return {
            "queries": noise(batch, new, self.width),
            "keys": noise(batch, new, self.kv_width),
            "values": noise(batch, new, self.kv_width),
            "key_pool": noise(*pool),
            "value_pool": noise(*pool),
            "block_tables": rng.permutation(batch * blocks).reshape(batch, blocks),
            "mask": np.where(seen, 0.0, MASKED).astype(np.float32)[:, None],
            **extra,
        }

    def reference(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """In float64, pages laid side by side."""
        batch, new, _ = feeds["queries"].shape

        def whole(pool: str, own: str) -> np.ndarray:
            past = feeds[pool][feeds["block_tables"]]
            past = past.reshape(batch, -1, self.kv_heads, self.head_dim)
            fresh = feeds[own].reshape(batch, new, self.kv_heads, self.head_dim)
            return np.concatenate([past, fresh], axis=1).astype(np.float64)

        keys, values = whole("key_pool", "keys"), whole("value_pool", "values")
        shape = (batch, new, self.kv_heads, self.heads // self.kv_heads, self.head_dim)
        queries = feeds["queries"].reshape(shape).astype(np.float64)
        scores = np.einsum("bskgd,btkd->bkgst", queries, keys) * self.head_dim**-0.5
        if self.cap:
            scores = self.cap * np.tanh(scores / self.cap)
        scores += feeds["mask"][:, :, None]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        total = weights.sum(-1, keepdims=True)
        if self.sinks:
            sinks = feeds["sinks"].astype(np.float64).reshape(self.kv_heads, -1)[:, :, None, None]
            total += np.exp(sinks - scores.max(-1, keepdims=True))
        weights /= total
        return np.einsum("bkgst,btkd->bskgd", weights, values).reshape(batch, new, self.width)

    def kv_bytes(self, batch: int, context: int) -> int:
        """Bytes of keys and values in half precision: what has to be read at least."""
        return 2 * batch * context * self.kv_width * 2
