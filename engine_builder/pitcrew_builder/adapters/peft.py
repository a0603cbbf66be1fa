"""`adapter_config.json` and the names of an adapter's tensors.

PEFT prefixes the module's own path and appends what the tensor is for: `...q_proj.lora_A.weight`
[r, in] and `...q_proj.lora_B.weight` [out, r] change `...q_proj.weight`; a tensor without such an
ending replaces the one of its name (trained biases, `modules_to_save`, saved embeddings).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field

from pitcrew_builder.checkpoint.tolerant import Tolerant
from pitcrew_builder.checkpoint.wrapped import is_other, language_name
from pitcrew_builder.errors import UnknownArchitecture

PREFIX = "base_model.model."
Item = TypeVar("Item")
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

_MOVING = ("pissa", "olora", "corda", "loftq")
"""Beginnings of `init_lora_weights` under which PEFT takes the first product from the checkpoint's own
weights, when it loads too. A saved conversion says `true` instead."""

_WITH_PEFT = "into its model with PEFT first"
"""How to merge what is refused here."""


class AdapterConfig(Tolerant):
    """How strongly an adapter's matrices count."""

    r: int = Field(default=8, gt=0)
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    target_parameters: tuple[str, ...] | None = None

    def known_to_patterns(self, tensor: str) -> str:
        """What patterns call the tensor `<module>.weight`: by its module, or whole where the tensor
        itself was named as a target, such as a router that is no linear map.
        """
        whole = any(f".{tensor}".endswith(f".{name}") for name in self.target_parameters or ())
        return tensor if whole else tensor.removesuffix(".weight")

    def rank(self, module: str) -> int:
        """The stated rank of `module`'s low-rank product, at least 1."""
        return max(1, _stated(self.rank_pattern, module, self.r))

    def scale(self, module: str, rank: int) -> float:
        """The factor of `module`'s low-rank product: alpha by r, or by its root (rsLoRA)."""
        alpha = _stated(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True, slots=True)
class Change:
    """What one tensor of an adapter does."""

    target: str
    """The tensor that it changes, as the adapter calls it."""
    role: str
    """`A` (down) or `B` (up) of a low-rank product, or `whole` for a replacement."""
    embedding: bool = False
    """The product is stored the other way round: A [r, vocab], B [hidden, r]."""


def check_plain(document: Mapping[str, Any], name: str, *, stacks: bool = False) -> None:
    """Refuse kinds of adapters that compute something else than LoRA; those for whole stacks of
    experts (`target_parameters`) too, unless the caller takes `stacks`.
    """
    for field, plain in _PLAIN.items():
        value = document.get(field)
        for_stacks = field == "target_parameters"
        if value and value != plain and not (stacks and for_stacks):
            how = "when the engine is built (adapters)" if for_stacks else _WITH_PEFT
            raise UnknownArchitecture(
                f"adapter '{name}': adapter_config.json: {field} is {value!r}; only plain LoRA is "
                f"read ({field}: {plain!r}); merge this adapter {how}"
            )
    start = document.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_MOVING):
        raise UnknownArchitecture(
            f"adapter '{name}': adapter_config.json: init_lora_weights is {start!r}, which changes "
            f"the checkpoint's weights too; save it with path_initial_model_for_weight_conversion "
            f"of PEFT's save_pretrained, or merge it {_WITH_PEFT}"
        )


def change_of(tensor: str) -> Change:
    """What an adapter's tensor of that name does."""
    bare = language_name(tensor.removeprefix(PREFIX).replace(".base_layer.", "."))
    found = _PAIRED.fullmatch(bare)
    if found is None:
        return Change(bare, "whole")
    return Change(f"{found[1]}.weight", found[3], embedding=found[2] is not None)


def known_as(tensor: str) -> str:
    """One name for a tensor that adapters call by two: transformers 5 has `mlp` for the
    `block_sparse_moe` of Mixtral's checkpoints and of older adapters.
    """
    return tensor.replace(".block_sparse_moe.", ".mlp.")


def text_tensors(tensors: Mapping[str, Item]) -> dict[str, Item]:
    """Those of an adapter that change the language model; a vision tower has no part in an engine."""
    return {name: item for name, item in tensors.items() if not is_other(name.removeprefix(PREFIX))}


def _stated(pattern: Mapping[str, Item], module: str, default: Item) -> Item:
    """What a pattern says of a module: the first key that names it counts."""
    return next((value for key, value in pattern.items() if _applies(key, module)), default)


def _applies(key: str, module: str) -> bool:
    """Whether a pattern's key names a module, by PEFT's rule."""
    return re.match(rf"(.*\.)?({key})$", module) is not None
