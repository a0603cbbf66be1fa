"""LoRA adapters that the pods of an LLMDeployment serve beside the model itself."""

from typing import Self

from pydantic import Field, model_validator

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import ObjectName


class ServedAdapter(Model):
    """An adapter, and what clients call it."""

    name: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$",
        description="What requests give as model.",
    )
    path: str = Field(
        min_length=1,
        max_length=512,
        # No segment begins with a dot: none leads elsewhere.
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$",
        description="Directory of the adapter, relative to the volume's root.",
    )


class AdapterSettings(Model):
    """Adapters on a volume, which the pods mount read-only. The engine must have room for them."""

    claim_name: ObjectName = Field(
        description="PersistentVolumeClaim in this namespace that holds the adapters."
    )
    modules: tuple[ServedAdapter, ...] = Field(
        default=(),
        max_length=64,
        description="Adapters that are served from the start.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    runtime_updates: bool = Field(
        default=False,
        description="Clients may load adapters of the volume and unload them. Each pod is asked for "
        "itself; what it loaded is forgotten when it restarts.",
    )
    max_in_memory: int | None = Field(
        default=None, ge=1, le=1024, description="Adapters in a pod's memory. Default: 16."
    )

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        names = [module.name for module in self.modules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"modules: the name '{twice}' is given twice; choose another")
        return self
