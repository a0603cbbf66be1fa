"""Network families, each a small module over shared blocks, and their registry."""

from collections.abc import Mapping
from typing import Any

from pitcrew_builder.checkpoint.config import Envelope
from pitcrew_builder.errors import CheckpointUnsafe, UnknownArchitecture
from pitcrew_builder.families import (
    gemma2,
    gemma3,
    gpt_oss,
    granite,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    starcoder2,
)
from pitcrew_builder.families.family import Family

FAMILIES: Mapping[str, Family[Any]] = {
    family.name: family
    for family in (
        llama.FAMILY,
        mistral.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        mixtral.FAMILY,
        qwen3_moe.FAMILY,
        gemma2.FAMILY,
        gemma3.FAMILY,
        phi3.FAMILY,
        olmo2.FAMILY,
        granite.FAMILY,
        starcoder2.FAMILY,
        gpt_oss.FAMILY,
    )
}
"""`model_type` -> family."""


def family_of(envelope: Envelope) -> Family[Any]:
    """The family of a config. Refuses code in the checkpoint, unless the family stands for it."""
    family = FAMILIES.get(envelope.model_type)
    strange = _strange_code(envelope, family)
    if strange:
        raise CheckpointUnsafe(
            f"config.json: auto_map asks to run the checkpoint's own code "
            f"({', '.join(strange)}), which Pitcrew never does; use a checkpoint "
            f"whose model_type is one of: {', '.join(sorted(FAMILIES))}"
        )
    if family is None:
        raise UnknownArchitecture(
            f"config.json: model_type '{envelope.model_type}' is not a known family; known are: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return family


def _strange_code(envelope: Envelope, family: Family[Any] | None) -> list[str]:
    """The keys of `auto_map` whose code no family replaces."""
    known = family.known_code if family else frozenset()
    asked = (envelope.auto_map or {}).items()
    # A copy names the repository that the code came from: `owner/name--module.Class`.
    return sorted(key for key, value in asked if str(value).rpartition("--")[2] not in known)
