"""How the number of an LLMDeployment's replicas follows the load, and what was decided."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import Rule, StatusModel, cel

MOST_REPLICAS = 1000
"""Of one LLMDeployment."""


class GpuUtilization(Model):
    """How busy the GPUs are, as DCGM tells it."""

    target_percent: int = Field(
        default=80,
        ge=1,
        le=99,
        description="More than this, averaged over the GPUs of all ready replicas, asks for more.",
    )


class WaitingRequests(Model):
    """Requests that wait for a place in the batch."""

    target_per_replica: int = Field(
        default=5,
        ge=1,
        le=100000,
        description="More than this, averaged over the ready replicas, asks for more.",
    )


class KvCacheUsage(Model):
    """How full the KV caches are. Pages kept for prompts to come do not count."""

    target_percent: int = Field(
        default=80,
        ge=1,
        le=99,
        description="More than this, averaged over the ready replicas, asks for more.",
    )


class FirstTokenTarget(Model):
    """How long requests take from their arrival to the first token."""

    target_milliseconds: int = Field(
        ge=1, le=3600000, description="More than this asks for one more replica."
    )
    percentile: int = Field(
        default=95, ge=1, le=99, description="That is held against the target, over all replicas."
    )
    window_seconds: int = Field(
        default=60, ge=15, le=3600, description="Requests of the last so many seconds count."
    )


class ScaleUp(Model):
    """How fast replicas are added."""

    stabilization_window_seconds: int = Field(
        default=30,
        ge=0,
        le=3600,
        description="Replicas are added where they were asked for all of this time.",
    )
    step_replicas: int = Field(
        default=4, ge=0, le=1000, description="Replicas that one step adds at most."
    )
    step_percent: int = Field(
        default=100,
        ge=0,
        le=10000,
        description="Percent of the present replicas that one step may add, where that is more.",
    )
    period_seconds: int = Field(
        default=15, ge=0, le=3600, description="Seconds from one step to the next at least."
    )


class ScaleDown(Model):
    """How fast replicas are taken away."""

    stabilization_window_seconds: int = Field(
        default=300,
        ge=0,
        le=3600,
        description="Replicas are taken away that were not asked for in all of this time.",
    )
    tolerance_percent: int = Field(
        default=0,
        ge=0,
        le=90,
        description="Percent of each target that the load has to leave free on the replicas that "
        "stay. More of it makes for fewer turns where the load is unsteady.",
    )
    step_replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Replicas that one step takes at most. 0, and stepPercent 0: none ever.",
    )
    step_percent: int = Field(
        default=10,
        ge=0,
        le=100,
        description="Percent of the present replicas that one step may take, where that is more.",
    )
    period_seconds: int = Field(
        default=60, ge=0, le=3600, description="Seconds from one step to the next at least."
    )


class Behavior(Model):
    """How fast the number changes."""

    scale_up: ScaleUp = Field(default=ScaleUp(), description="Towards more replicas.")
    scale_down: ScaleDown = Field(default=ScaleDown(), description="Towards fewer.")


class Autoscaling(Model):
    """Bounds, signals and pace. Signals that are named vote: one is enough for more replicas; for fewer all
    have to agree.
    """

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="self.minReplicas <= self.maxReplicas",
                message="minReplicas: it is more than maxReplicas; lower it, or raise maxReplicas",
            )
        )
    )

    min_replicas: int = Field(default=1, ge=1, le=MOST_REPLICAS, description="Never fewer.")
    max_replicas: int = Field(ge=1, le=MOST_REPLICAS, description="Never more.")
    gpu_utilization: GpuUtilization | None = Field(
        default=None,
        description="Default: it votes with 80 percent where no other load is named and the pods "
        "hold GPUs. On CPUs it never votes.",
    )
    waiting_requests: WaitingRequests | None = Field(
        default=None,
        description="Default: they vote with 5 where no other load is named and the pods hold no GPU.",
    )
    kv_cache_usage: KvCacheUsage | None = Field(
        default=None, description="Default: it does not vote."
    )
    time_to_first_token: FirstTokenTarget | None = Field(
        default=None,
        description="Default: it does not vote. It says that more are needed, and no load: one of "
        "the others, named or not, says when fewer do.",
    )
    behavior: Behavior = Field(default=Behavior(), description="How fast the number changes.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"autoscaling.minReplicas: {self.min_replicas} is more than maxReplicas, "
                f"{self.max_replicas}; lower it, or raise maxReplicas"
            )
        return self


class SignalStatus(StatusModel):
    """What one signal said."""

    name: str = Field(description="Its field in spec.autoscaling.")
    current: str | None = Field(
        default=None, description="What was measured, over the ready replicas; absent: nothing."
    )
    target: str = Field(description="What it is held against.")
    desired_replicas: int | None = Field(
        default=None, ge=0, description="Replicas that it asks for; absent: it says nothing."
    )


class AutoscalingStatus(StatusModel):
    """The number that was decided. It is kept here: spec.replicas stays absent."""

    desired_replicas: int = Field(ge=0, description="Replicas that are to serve.")
    current_replicas: int = Field(default=0, ge=0, description="Replicas that are ready.")
    last_scale_time: str | None = Field(
        default=None, description="RFC 3339: when the desired number changed last."
    )
    warming: bool = Field(
        default=False, description="Replicas that the last step added do not serve yet."
    )
    message: str = Field(default="", description="Why the number is what it is.")
    signals: tuple[SignalStatus, ...] = Field(
        default=(),
        description="What each signal said, told anew where one of them has changed much.",
    )
