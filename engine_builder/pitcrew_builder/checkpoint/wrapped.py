"""A language model inside of a multimodal checkpoint: its configuration and its tensors, taken out.

Only text goes through an engine. What makes rows of pictures (a vision tower, a projector) has no
part in what text alone is answered, so it is left behind.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pitcrew_builder.errors import CheckpointCorrupt

WRAPPED: Mapping[str, str] = {"gemma3": "gemma3_text", "mistral3": "mistral"}
"""`model_type` of the whole -> that of the language model, where its own section names none."""

SECTION = "text_config"

_OUTER = (
    "architectures",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
    "tie_word_embeddings",
)
"""Keys that count for the language model too, and win, where they stand outside of its section."""

_TEXT = (
    # As published, and as transformers calls its modules since.
    (re.compile(r"language_model\.(model|lm_head)\."), r"\1."),
    (re.compile(r"model\.language_model\."), "model."),
)
_OTHER = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\..+")

Item = TypeVar("Item")


def language_config(raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model: `raw` itself, where nothing is around it.

    Raises `CheckpointCorrupt` where the section is missing.
    """
    whole = raw.get("model_type")
    if not isinstance(whole, str) or whole not in WRAPPED:
        return raw
    inner = raw.get(SECTION)
    if not isinstance(inner, dict):
        raise CheckpointCorrupt(
            f"config.json: model_type '{whole}' needs {SECTION}, the configuration of its language "
            f"model; compare it with the published one"
        )
    outer = {key: raw[key] for key in _OUTER if raw.get(key) is not None}
    return {"model_type": WRAPPED[whole], **inner, **outer}


def language_tensors(tensors: Mapping[str, Item]) -> dict[str, Item]:
    """The tensors by the names that they have in the language model alone, without the others'.

    A name that belongs to neither stays, for whoever knows which names there may be.
    """
    return {language_name(name): item for name, item in tensors.items() if not is_other(name)}


def language_name(name: str) -> str:
    """What a tensor or module of the whole is called in the language model alone."""
    for pattern, bare in _TEXT:
        found = pattern.match(name)
        if found:
            return found.expand(bare) + name[found.end() :]
    return name


def is_other(name: str) -> bool:
    """Whether a tensor belongs to what is left behind."""
    return _OTHER.fullmatch(name) is not None
