"""`adapter_config.json` and the names of an adapter's tensors.

PEFT prefixes the module's own path and appends what the tensor is for: `...q_proj.lora_A.weight`
[r, in] and `...q_proj.lora_B.weight` [out, r] change `...q_proj.weight`; a tensor without such an
ending replaces the one of its name (trained biases, `modules_to_save`, saved embeddings).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from pitcrew_builder.checkpoint.tolerant import Tolerant
from pitcrew_builder.errors import UnknownArchitecture

PREFIX = "base_model.model."
_PAIRED = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")

_PLAIN: Mapping[str, object] = {
    "peft_type": "LORA",
    "fan_in_fan_out": False,
    "use_dora": False,
    "use_qalora": False,
    "use_bdlora": None,
    "lora_bias": False,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "monteclora_config": None,
    "velora_config": None,
}
"""Fields that change what an adapter means, and the only value of each that is read."""


class AdapterConfig(Tolerant):
    """How strongly an adapter's matrices count."""

    lora_alpha: float = 8
    use_rslora: bool = False
    alpha_pattern: dict[str, float] = Field(default_factory=dict)

    def scale(self, module: str, rank: int) -> float:
        """The factor of `module`'s low-rank product: alpha by r, or by its root (rsLoRA)."""
        alpha = next(
            (value for key, value in self.alpha_pattern.items() if _applies(key, module)),
            self.lora_alpha,
        )
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True, slots=True)
class Change:
    """What one tensor of an adapter does."""

    target: str
    """The tensor of the checkpoint that it changes."""
    role: str
    """`A` (down) or `B` (up) of a low-rank product, or `whole` for a replacement."""
    embedding: bool = False
    """The product is stored the other way round: A [r, vocab], B [hidden, r]."""


def check_plain(document: Mapping[str, Any], name: str) -> None:
    """Refuse kinds of adapters that compute something else than LoRA."""
    for field, plain in _PLAIN.items():
        value = document.get(field)
        if value and value != plain:
            raise UnknownArchitecture(
                f"adapter '{name}': adapter_config.json: {field} is {value!r}; only plain LoRA is "
                f"read ({field}: {plain!r}); merge this adapter into its model with PEFT first"
            )


def change_of(tensor: str) -> Change:
    """What an adapter's tensor of that name does."""
    bare = tensor.removeprefix(PREFIX).replace(".base_layer.", ".")
    found = _PAIRED.fullmatch(bare)
    if found is None:
        return Change(bare, "whole")
    return Change(f"{found[1]}.weight", found[3], embedding=found[2] is not None)


def _applies(key: str, module: str) -> bool:
    """Whether a pattern's key names a module, by PEFT's rule."""
    return re.match(rf"(.*\.)?({key})$", module) is not None
