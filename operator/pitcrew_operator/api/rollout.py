"""How an LLMDeployment changes from one revision to the next, and how far it has come."""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import Rule, SecretKey, StatusModel, cel

Decimal = Annotated[str, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?$", max_length=16)]
"""A figure as text: an API object holds no floating point numbers."""


class Strategy(StrEnum):
    """Which comes first: the new replica or the end of the old one."""

    SURGE = "Surge"
    IN_PLACE = "InPlace"


class CanaryStep(Model):
    """A part of the replicas that is of the new revision for a while."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="has(self.weight) != has(self.replicas)",
                message="a step has exactly one of weight and replicas",
            )
        )
    )

    weight: int | None = Field(
        default=None, ge=1, le=99, description="Percent of the replicas, rounded up."
    )
    replicas: int | None = Field(default=None, ge=1, le=1000, description="A number of replicas.")
    hold_seconds: int = Field(
        default=60,
        ge=0,
        le=604800,
        description="Seconds that the step lasts at least, once its replicas serve.",
    )


class TimeToFirstToken(Model):
    """Bounds on the new revision's time to the first token, against the stable one's."""

    max_mean_ratio: Decimal | None = Field(default=None, description="Of the means, such as 1.5.")
    max_p95_ratio: Decimal | None = Field(default=None, description="Of the 95th percentiles.")
    floor_milliseconds: int = Field(
        default=50, ge=0, le=60000, description="A time up to this is never too long."
    )


class GoldenPrompts(Model):
    """Prompts that both revisions continue greedily, token by token."""

    prompts: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        min_length=1, max_length=32, description="What both are asked, through /v1/completions."
    )
    max_tokens: int = Field(default=16, ge=1, le=256, description="Tokens of each answer.")
    min_agreement: Decimal = Field(
        default="0.9",
        description="Part of the stable revision's tokens, up to the first difference of each "
        "answer, that the new revision has to repeat.",
    )
    key_secret_ref: SecretKey | None = Field(
        default=None,
        description="An API key of the pods, where they ask for one: the first line of this Secret's "
        "key. The operator has to be allowed to get this one Secret.",
    )


class Analysis(Model):
    """What decides whether a step is good. A bound that is broken rolls back."""

    min_requests: int = Field(
        default=0,
        ge=0,
        le=1000000,
        description="Requests that the new revision must have answered before a step ends. Rates "
        "and times are judged once there are that many.",
    )
    max_error_rate: Decimal | None = Field(
        default="0.01", description="Part of its requests that may fail by a fault of the server."
    )
    time_to_first_token: TimeToFirstToken = Field(
        default=TimeToFirstToken(), description="How much slower it may be."
    )
    golden: GoldenPrompts | None = Field(
        default=None, description="Whether it says the same. Default: it is not asked."
    )


class Canary(Model):
    """Steps on the way, each of them judged."""

    steps: tuple[CanaryStep, ...] = Field(min_length=1, max_length=16, description="In order.")
    analysis: Analysis | None = Field(
        default=None, description="What each step is judged by. Default: by time alone."
    )


class RolloutSettings(Model):
    """How replicas of another engine, image or pod take the place of the old ones."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="!has(self.strategy) || self.strategy != 'InPlace' || !has(self.maxSurge)",
                message="maxSurge: InPlace starts nothing before something has ended; leave it out, "
                "or choose strategy Surge",
            )
        )
    )

    strategy: Strategy = Field(
        default=Strategy.SURGE,
        description="Surge: new replicas first, which takes room for maxSurge more. InPlace: old "
        "ones end first and give back what they hold, such as GPUs.",
    )
    max_surge: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Replicas on top of spec.replicas. Default: 1. For Surge.",
    )
    max_unavailable: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Replicas that may be missing meanwhile. Default: 0 for Surge, 1 for InPlace.",
    )
    progress_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=604800,
        description="After so many seconds without another replica that serves, the rollout has "
        "failed. Default: runtime.startupSeconds and two minutes.",
    )
    auto_rollback: bool = Field(
        default=True,
        description="Go back by itself where the new revision cannot run, is late, or is judged "
        "worse. Else the failure is only told.",
    )
    canary: Canary | None = Field(default=None, description="Default: all the way at once.")
    paused: bool = Field(
        default=False, description="Stop where it stands. Scaling and repair go on."
    )
    trigger: str = Field(
        default="",
        max_length=253,
        description="Another text tries a revision again that was rolled back.",
    )


class FailedRevision(StatusModel):
    """What was rolled back. It is not tried again until something else is asked for."""

    revision: str = Field(description="Its hash.")
    engine: str = Field(default="", description="Tag of its engine.")
    reason: str = Field(description="One CamelCase word for programs.")
    message: str = Field(description="What was wrong.")
    at: str = Field(description="RFC 3339: when it was given up.")
    trigger: str = Field(default="", description="spec.rollout.trigger of that time.")


class RolloutStatus(StatusModel):
    """The rollout of the newest revision. Its numbers change only when it gets on."""

    phase: str = Field(
        description="Progressing, Canary, Paused, Complete, RollingBack or RolledBack."
    )
    revision: str = Field(description="Hash of the revision that the spec asks for.")
    engine_id: str = Field(default="", description="Content address of its engine.")
    stable: str | None = Field(
        default=None, description="Hash of the revision that served alone last."
    )
    stable_spec: str | None = Field(
        default=None, description="Digest of the part of the spec that shaped it."
    )
    weight: int = Field(
        default=0, ge=0, description="Percent of the serving replicas that are of the revision."
    )
    step: int = Field(default=0, ge=0, description="Step of the canary, counted from 1.")
    steps: int = Field(default=0, ge=0, description="Steps that the canary has.")
    available: int = Field(
        default=0, ge=0, description="Most replicas of the revision that have served at a time."
    )
    progressed_at: str | None = Field(default=None, description="RFC 3339: when it got on last.")
    held_since: str | None = Field(
        default=None, description="RFC 3339: since when the step's replicas serve."
    )
    answered: str | None = Field(
        default=None, description="Hash of the revision that answered through the Service last."
    )
    failed: FailedRevision | None = Field(default=None, description="What was rolled back.")
