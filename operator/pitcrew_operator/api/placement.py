"""Where pods come to lie, and how many of them may be taken away at a time."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import Rule, cel

IntOrPercent = Annotated[
    int | str,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": r"^([0-9]+|[0-9]{1,2}%|100%)$",
        },
    ),
]


class TopologySpread(Model):
    """How evenly the replicas lie over parts of the cluster. Its selector is the operator's."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
                message="minDomains: it needs whenUnsatisfiable: DoNotSchedule",
            )
        )
    )

    max_skew: int = Field(
        default=1, ge=1, le=1000, description="Replicas that one part may have more than another."
    )
    topology_key: str = Field(
        min_length=1,
        max_length=317,
        description="Node label whose values are the parts, such as topology.kubernetes.io/zone.",
    )
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = Field(
        default="ScheduleAnyway", description="ScheduleAnyway or DoNotSchedule."
    )
    min_domains: int | None = Field(
        default=None, ge=1, le=1000, description="Parts that there have to be, for DoNotSchedule."
    )


class DisruptionBudget(Model):
    """What node drains and other evictions may take at a time."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="!has(self.maxUnavailable) || type(self.maxUnavailable) != int || "
                "self.maxUnavailable >= 0",
                message="maxUnavailable: give a number from 0 or a percentage such as 25%",
            )
        )
    )

    max_unavailable: IntOrPercent = Field(
        default=1,
        description="Replicas, or a percentage of them rounded up, that evictions may take at a "
        "time. 0 lets no node be drained.",
    )

    @model_validator(mode="after")
    def _is_a_share(self) -> Self:
        text = str(self.max_unavailable)
        if not text.removesuffix("%").isdecimal():
            raise ValueError(f"maxUnavailable: {text!r} is no number and no percentage such as 25%")
        return self

    def minimum(self, replicas: int) -> int:
        """Replicas that have to stay, of so many."""
        text = str(self.max_unavailable)
        share = int(text.removesuffix("%"))
        taken = -(-replicas * share // 100) if text.endswith("%") else share
        return max(0, replicas - taken)
