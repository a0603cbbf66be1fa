"""LLMDeployment: replicas of the runtime that serve one LLMEngine behind a Service."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import Model
from pitcrew_operator.api.adapters import AdapterSettings
from pitcrew_operator.api.autoscaling import Autoscaling, AutoscalingStatus
from pitcrew_operator.api.common import (
    LocalObjectReference,
    ObjectName,
    PodSettings,
    Quantity,
    ResourceStatus,
    Rule,
    SecretKey,
    StatusModel,
    cel,
)
from pitcrew_operator.api.placement import DisruptionBudget, TopologySpread
from pitcrew_operator.api.pod_template import PodTemplate
from pitcrew_operator.api.rollout import RolloutSettings, RolloutStatus
from pitcrew_operator.api.routing import InferencePool, ServiceSettings


class EngineCache(Model):
    """A volume that keeps engines from object storage, so that a pod finds them there."""

    claim_name: ObjectName = Field(
        description="PersistentVolumeClaim that the pods share; a checked copy of each engine stays "
        "on it until it is removed, by pitcrew-engine gc."
    )


class RuntimeSettings(PodSettings):
    """The pods that serve."""

    engine_cache: EngineCache | None = Field(
        default=None,
        description="Where pulled engines are kept. Default: each pod pulls a copy of its own into "
        "its scratch space. Of no use for engines on a volume.",
    )

    kv_memory: Quantity | None = Field(
        default=None,
        description="Memory for the KV cache, such as 512Mi. Default: the runtime's own choice.",
    )
    drain_seconds: int = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds that running requests get to finish when a pod is stopped.",
    )
    startup_seconds: int = Field(
        default=1800,
        ge=10,
        le=86400,
        description="Seconds that a pod gets to load, warm up and prove its engine.",
    )
    rank_token_secret_ref: SecretKey | None = Field(
        default=None,
        description="Secret that the pods of a group prove to each other that they know. Default: "
        "none; whoever reaches port 8002 first is taken for one of them.",
    )
    rank_tls_secret_ref: LocalObjectReference | None = Field(
        default=None,
        description="Secret with tls.crt, tls.key and ca.crt, as cert-manager writes it: what ranks of "
        "several pods exchange goes over TLS, and both ends need a certificate of that authority. "
        "Default: none; it is not encrypted.",
    )
    topology_spread_constraints: tuple[TopologySpread, ...] | None = Field(
        default=None,
        max_length=8,
        description="How the replicas are spread. Default: over hosts, as far as there are any; an "
        "empty list spreads nothing.",
    )
    pod_template: PodTemplate | None = Field(
        default=None,
        description="Fields laid over the pods' template, such as affinity, sidecars and volumes. "
        "What the operator owns is refused by name.",
    )


class EngineReference(LocalObjectReference):
    """An LLMEngine, and which of its versions."""

    version: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{12,64}$",
        max_length=64,
        description="Id of a version in the LLMEngine's status.versions, or its first 12 digits or "
        "more. Default: the version that was proven last.",
    )


_GPUS = (
    "has(self.runtime) && has(self.runtime.resources) && has(self.runtime.resources.limits) && "
    "'nvidia.com/gpu' in self.runtime.resources.limits"
)
_GPU_TEXT = "string(self.runtime.resources.limits['nvidia.com/gpu'])"


_ONE_DECIDES = (
    "replicas: autoscaling decides their number; remove autoscaling to set it by hand, by kubectl scale "
    "or by an autoscaler of the cluster (HPA, KEDA), or leave replicas out"
)


class LLMDeploymentSpec(Model):
    """What to serve and how."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule=f"!has(self.worldSize) || has(self.ranksPerPod) || !({_GPUS}) || "
                f"{_GPU_TEXT} == string(self.worldSize)",
                message="worldSize: every rank has a GPU of its own; set "
                "runtime.resources.limits['nvidia.com/gpu'] to worldSize, or leave one of them out",
            ),
            Rule(
                rule=f"!has(self.ranksPerPod) || !({_GPUS}) || "
                f"{_GPU_TEXT} == string(self.ranksPerPod)",
                message="ranksPerPod: every rank has a GPU of its own; set "
                "runtime.resources.limits['nvidia.com/gpu'] to ranksPerPod, or leave it out",
            ),
            Rule(
                rule="!has(self.worldSize) || !has(self.ranksPerPod) || "
                "self.worldSize % self.ranksPerPod == 0",
                message="ranksPerPod: it must divide worldSize, so that every pod of a replica "
                "holds as many ranks",
            ),
            Rule(
                rule="!has(self.replicas) || !has(self.autoscaling)",
                message=_ONE_DECIDES,
            ),
        )
    )

    engine_ref: EngineReference = Field(
        description="The LLMEngine to serve, in the same namespace."
    )
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Replicas to run; absent means 1. An HPA writes it through /scale. Not beside "
        "autoscaling.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None,
        description="Have the operator decide how many replicas run. Default: replicas says it.",
    )
    world_size: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="Ranks of one replica. Where given, it must be what the engine was built for.",
    )
    ranks_per_pod: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="Ranks that one pod holds. Default: all, so that a replica is one pod. Where the "
        "engine has more, a replica is a group of pods, by a LeaderWorkerSet.",
    )
    served_model_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9._/-]+$",
        description="Model name for clients. Default: the engine's model name.",
    )
    adapters: AdapterSettings | None = Field(
        default=None, description="LoRA adapters to serve. Default: none."
    )
    runtime: RuntimeSettings = Field(default=RuntimeSettings(), description="The pods.")
    pod_disruption_budget: DisruptionBudget = Field(
        default=DisruptionBudget(),
        description="What evictions may take at a time. It needs more than one replica.",
    )
    service: ServiceSettings = Field(default=ServiceSettings(), description="The Service.")
    inference_pool: InferencePool | None = Field(
        default=None,
        description="Routing by the load of each replica, through a gateway that knows the Gateway "
        "API Inference Extension. Default: none.",
    )
    rollout: RolloutSettings = Field(
        default=RolloutSettings(), description="How one revision takes the place of another."
    )

    @model_validator(mode="after")
    def _one_decides(self) -> Self:
        if self.replicas is not None and self.autoscaling is not None:
            raise ValueError(_ONE_DECIDES)
        return self

    @property
    def wanted_replicas(self) -> int:
        """Replicas that should serve."""
        return 1 if self.replicas is None else self.replicas


class ServedEngine(StatusModel):
    """An engine that pods serve."""

    name: str = Field(description="Name of the LLMEngine.")
    id: str = Field(description="Content address of the engine.")
    tag: str = Field(description="Model, commit and target for people.")


class LLMDeploymentStatus(ResourceStatus):
    """What is the case."""

    replicas: int = Field(default=0, ge=0, description="Pods that exist, old ones included.")
    ready_replicas: int = Field(default=0, ge=0, description="Pods that are ready.")
    updated_replicas: int = Field(default=0, ge=0, description="Pods of the newest revision.")
    selector: str | None = Field(default=None, description="Label selector of the pods.")
    engine: ServedEngine | None = Field(default=None, description="The engine being served.")
    previous_engine: ServedEngine | None = Field(
        default=None, description="The engine that was served before it."
    )
    rollout: RolloutStatus | None = Field(default=None, description="How far the change has come.")
    gpu_utilization_percent: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="How busy the GPUs of the ready pods are, in steps of 5, as DCGM tells it; absent "
        "where no exporter does.",
    )
    autoscaling: AutoscalingStatus | None = Field(
        default=None, description="What was decided of the number of replicas, and why."
    )
    url: str | None = Field(default=None, description="Address inside the cluster.")
