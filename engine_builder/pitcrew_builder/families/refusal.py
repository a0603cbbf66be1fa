"""How a family says that it cannot draw a variation."""

from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.errors import UnknownArchitecture


def require(config: DecoderConfig, field: str, value: object, supported: object) -> None:
    """Refuse a variation of the family that its graph would not compute."""
    if value != supported:
        raise unsupported(config, field, value, supported)


def unsupported(
    config: DecoderConfig, field: str, value: object, supported: object
) -> UnknownArchitecture:
    """The error for a field whose value we cannot draw."""
    return UnknownArchitecture(
        f"config.json: {field} is {value!r}; for model_type '{config.model_type}' this version "
        f"draws only: {supported}"
    )
