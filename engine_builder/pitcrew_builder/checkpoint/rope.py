"""The rotary keys of `config.json`: one form of transformers 5, several of transformers 4."""

from typing import Any

from pydantic import Field

from pitcrew_builder.checkpoint.tolerant import Tolerant

LONGROPE = "longrope"
LAYER_KINDS = ("full_attention", "sliding_attention")


class RopeParameters(Tolerant):
    """How positions are rotated; the keys that apply depend on `rope_type`."""

    rope_type: str = "default"
    rope_theta: float = Field(default=10000.0, gt=0)
    factor: float | None = Field(default=None, gt=0)
    low_freq_factor: float = Field(default=1.0, gt=0)
    high_freq_factor: float = Field(default=4.0, gt=0)
    original_max_position_embeddings: int | None = Field(default=None, gt=1)
    partial_rotary_factor: float = Field(default=1.0, gt=0, le=1)
    attention_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


def rope_document(raw: dict[str, Any], theta: float) -> dict[str, Any]:
    """The keys of one rotation, gathered from wherever the config's age put them.

    transformers 4 wrote `rope_theta` beside `rope_scaling`, whose type was once called `type`.
    """
    merged = rope_section(raw, "rope_scaling") or rope_section(raw, "rope_parameters")
    nested = sorted(set(merged) & set(LAYER_KINDS))
    if nested:
        raise ValueError(
            f"rope_parameters: rotations by layer kind ({', '.join(nested)}) belong to other "
            f"families than this one"
        )
    return completed(merged, raw, theta)


def rope_section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    """What the config says under one of the keys; nothing where it is missing or null.

    Raises `ValueError` where that is no object.
    """
    found = raw.get(key)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{key} is {str(found)[:80]!r}, no object")
    return dict(found or {})


def completed(rope: dict[str, Any], raw: dict[str, Any], theta: float) -> dict[str, Any]:
    """`rope` with what stands beside it in the config, and the family's default base."""
    known = {key: value for key, value in rope.items() if value is not None}
    if "type" in known:
        known.setdefault("rope_type", known["type"])
    known.setdefault("rope_theta", raw.get("rope_theta") or theta)
    if raw.get("partial_rotary_factor") is not None:
        known.setdefault("partial_rotary_factor", raw["partial_rotary_factor"])
    # A length that stands outside is the one that counts.
    if raw.get("original_max_position_embeddings") is not None:
        known["original_max_position_embeddings"] = raw["original_max_position_embeddings"]
    return known
