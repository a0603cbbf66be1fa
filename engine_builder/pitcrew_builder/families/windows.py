"""Which layers see how far."""

from collections.abc import Sequence

from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.refusal import unsupported

FULL, SLIDING = "full_attention", "sliding_attention"


def windows_of(
    config: DecoderConfig, types: Sequence[str], window: int | None
) -> tuple[int | None, ...]:
    """The window of every layer, None where it sees everything, from the layers' types."""
    if len(types) != config.num_hidden_layers:
        raise unsupported(config, "layer_types", types, f"{config.num_hidden_layers} types")
    unknown = sorted(set(types) - {FULL, SLIDING})
    if unknown:
        raise unsupported(config, "layer_types", unknown[0], f"{FULL}, {SLIDING}")
    if SLIDING in types and window is None:
        raise unsupported(config, "sliding_window", None, "a number, as layer_types names windows")
    return tuple(window if kind == SLIDING else None for kind in types)
