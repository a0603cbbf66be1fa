"""Qwen 2 and 2.5: a Llama whose queries, keys and values have biases; later layers have windows."""

from dataclasses import replace

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, attention, decoder, frame, gated_mlp
from pitcrew_builder.families.windows import FULL, SLIDING, windows_of
from pitcrew_builder.manifest import ResolvedShapes


class QwenConfig(DecoderConfig):
    """What Qwen 2 and Qwen 3 describe alike."""

    num_key_value_heads: int = Field(default=32, gt=0, le=1024)
    max_position_embeddings: int = Field(default=32768, gt=1)
    use_sliding_window: bool = False
    sliding_window: int | None = Field(default=4096, gt=0)
    max_window_layers: int = 28
    layer_types: tuple[str, ...] | None = None

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer: those from `max_window_layers` on, unless they are listed."""
        window = self.sliding_window if self.use_sliding_window else None
        first = self.num_hidden_layers if window is None else self.max_window_layers
        types = self.layer_types or [
            SLIDING if index >= first else FULL for index in range(self.num_hidden_layers)
        ]
        return windows_of(self, types, window)


def draw(config: QwenConfig, shapes: ResolvedShapes) -> Decoder:
    """The network of a Qwen 2."""
    plain = replace(attention(config), qkv_bias=True)
    layers = [
        DecoderLayer(replace(plain, window=window), gated_mlp(config), Norm(config.rms_norm_eps))
        for window in config.windows
    ]
    return decoder(frame(config, shapes, config.windows), layers)


FAMILY = Family(name="qwen2", config=QwenConfig, draw=draw)
