"""Prompts of an LLMEngine: as the builder takes them, or from a ConfigMap that its pod mounts."""

from collections.abc import Iterator
from typing import Final, Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import Model, Prompts, Proof, Quantization, Task
from pitcrew_operator.api.common import ObjectName, Rule, cel

PROMPTS_MOUNT: Final = "/prompts"


class ConfigMapKey(Model):
    """One key of a ConfigMap in the same namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap.")
    key: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        description="Key of the file in the ConfigMap, such as prompts.jsonl.",
    )


class EnginePrompts(Prompts):
    """Prompts of the users: JSON lines from a volume, an address or a ConfigMap."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="[has(self.path), has(self.url), has(self.configMap)]"
                ".filter(given, given).size() == 1",
                message="give exactly one of path, url and configMap",
            )
        )
    )

    config_map: ConfigMapKey | None = Field(
        default=None, description="A key of a ConfigMap, which holds at most 1 MiB."
    )

    @model_validator(mode="after")
    def _exactly_one_place(self) -> Self:
        places = (self.path, self.url, self.config_map)
        if sum(place is not None for place in places) != 1:
            raise ValueError("prompts: give exactly one of path, url and configMap")
        return self

    def build_prompts(self) -> Prompts:
        """The same prompts as the builder reads them inside its pod."""
        path = self.path
        if self.config_map is not None:
            path = f"{PROMPTS_MOUNT}/{self.config_map.name}/{self.config_map.key}"
        return Prompts(path=path, url=self.url, samples=self.samples)


class EngineTask(Task):
    """Questions of the users with the answers they expect, and how well the engine must do."""

    prompts: EnginePrompts = Field(
        description="JSON lines, each with `prompt` or `messages`, and `reference` or `references`."
    )

    def build_task(self) -> Task:
        """The same task for the builder."""
        return Task(**{**_fields(self, Task), "prompts": self.prompts.build_prompts()})


class EngineProof(Proof):
    """What the engine must show on held-out prompts before it is published."""

    prompts: EnginePrompts | None = Field(
        default=None,
        description="Held-out prompts. Default: one in five of the calibration prompts, which are "
        "then not calibrated on.",
    )
    tasks: tuple[EngineTask, ...] = Field(
        default=(),
        max_length=8,
        description="Questions with answers that the engine must do well on, too.",
    )

    def build_proof(self) -> Proof:
        """The same proof for the builder."""
        prompts = self.prompts.build_prompts() if self.prompts else None
        tasks = tuple(task.build_task() for task in self.tasks)
        return Proof(**{**_fields(self, Proof), "prompts": prompts, "tasks": tasks})


class EngineQuantization(Quantization):
    """A narrower engine, and what it is calibrated on."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="has(self.weights) || has(self.kvCache)",
                message="set weights, kvCache or both, or leave quantization out",
            )
        )
    )

    calibration: EnginePrompts | None = Field(
        default=None, description="Prompts of the users; awq, gptq, fp8 and kvCache need them."
    )

    def build_quantization(self) -> Quantization:
        """The same quantization for the builder."""
        calibration = self.calibration.build_prompts() if self.calibration else None
        return Quantization(**{**_fields(self, Quantization), "calibration": calibration})


def config_maps(
    quantization: EngineQuantization | None, proof: EngineProof | None
) -> tuple[ConfigMapKey, ...]:
    """Every key that the prompts come from, each once, in the order of the spec."""
    found = (prompts.config_map for prompts in _prompts(quantization, proof))
    return tuple(dict.fromkeys(key for key in found if key is not None))


def _prompts(
    quantization: EngineQuantization | None, proof: EngineProof | None
) -> Iterator[EnginePrompts]:
    if quantization is not None and quantization.calibration is not None:
        yield quantization.calibration
    if proof is not None:
        yield from [proof.prompts] if proof.prompts else []
        yield from (task.prompts for task in proof.tasks)


def _fields(model: Model, base: type[Model]) -> dict[str, object]:
    return {name: getattr(model, name) for name in base.model_fields}
