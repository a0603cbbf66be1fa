"""What a constant of a network is for, and in which layer, told by its name."""

import re
from enum import StrEnum


class Part(StrEnum):
    """What a tensor is for."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    MLP = "mlp"
    EXPERTS = "experts"
    NORMS = "norms"
    HEAD = "head"
    TABLES = "tables"


_PARTS = (
    # Rows are looked up wide; what is narrow under that name multiplies, as the LM head.
    (r"embed_tokens\.weight/(codes|scales)$", Part.HEAD),
    (r"embed_tokens|\bwte\b|embedding", Part.EMBEDDING),
    (r"lm_head", Part.HEAD),
    (r"norm", Part.NORMS),
    (r"experts|router|block_sparse_moe|mlp\.gate\b", Part.EXPERTS),
    (r"self_attn|attention|\battn\b", Part.ATTENTION),
    (r"mlp|feed_forward", Part.MLP),
)
"""The first pattern that is in a tensor's name decides; all else is a table that we computed."""

_LAYER = re.compile(r"\blayers\.(\d+)\b")


def part_of(name: str) -> Part:
    """The class of a tensor by its name."""
    return next((part for pattern, part in _PARTS if re.search(pattern, name)), Part.TABLES)


def layer_of(name: str) -> int | None:
    """The layer that a name speaks of."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None
