"""Room for LoRA adapters that are chosen while an engine is served."""

from typing import Annotated

from pydantic import Field

from pitcrew_builder.spec.base import Model, is_empty

ModuleName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_]+$")]


class Lora(Model):
    """Slots for LoRA adapters, which stay out of the weights: each sequence of a step names its own.

    Not to be confused with `adapters`, which are merged into the weights when the engine is built.
    """

    max_adapters: int = Field(
        default=4, ge=1, le=256, description="Adapters that one step may mix, beside none."
    )
    max_rank: int = Field(
        default=16, ge=1, le=512, description="The largest rank of an adapter's matrices."
    )
    target_modules: tuple[ModuleName, ...] = Field(
        default=(),
        max_length=32,
        exclude_if=is_empty,
        description="Linear maps of the layers that adapters may change, by PEFT's names, such as "
        "q_proj. Default: all of them, but for routers and experts.",
    )

    @property
    def numbers(self) -> int:
        """In the slots of a runtime, the one of zeros included, for each input and output of a target."""
        return (1 + self.max_adapters) * self.max_rank
