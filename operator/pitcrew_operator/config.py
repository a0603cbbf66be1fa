"""The operator's own settings: parsed once from the environment, frozen ever after."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import ImageName, ObjectName, S3Bucket
from pitcrew_operator.kinds import NODE, WATCHED, Kind

PREFIX = "PITCREW_"

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class Config(Model):
    """One operator's settings. Field `builder_image` is read from `PITCREW_BUILDER_IMAGE`, etc."""

    builder_image: ImageName = Field(description="Image with `pitcrew-build`.")
    runtime_image: ImageName = Field(description="Image with `pitcrew-serve`.")
    builder_pull_policy: PullPolicy = "IfNotPresent"
    runtime_pull_policy: PullPolicy = "IfNotPresent"
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        default=(), description="Comma-separated; used where a resource names none."
    )
    store_claim: ObjectName = "pitcrew-engines"
    store_size: str = Field(default="20Gi", min_length=1)
    store_class: str | None = Field(default=None, description="None: the cluster's default class.")
    store_s3: S3Bucket | None = Field(
        default=None,
        description="JSON. Set: engines whose spec names no store are kept here, not on a claim.",
    )
    store_access_modes: tuple[
        Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"], ...
    ] = ("ReadWriteOnce",)
    job_retention_seconds: int = Field(default=3600, ge=0, description="Of finished build Jobs.")
    max_parallel_builds: int = Field(
        default=0, ge=0, le=10000, description="Build Jobs at a time in all namespaces; 0: any."
    )
    probe_services: bool = Field(
        default=True, description="Ask through the Service before an LLMDeployment is Ready."
    )
    watch_nodes: bool = Field(default=True, description="Read the labels of nodes with GPUs.")
    dcgm_selector: str = Field(
        default="app=nvidia-dcgm-exporter",
        description="Labels of the pods that tell how busy GPUs are; -: ask none.",
    )
    dcgm_port: int = Field(default=9400, ge=1, le=65535, description="Port of their /metrics.")
    autoscaling_seconds: float = Field(
        default=15.0, gt=0, description="Between two looks at the load of autoscaled deployments."
    )
    argocd_namespaces: tuple[ObjectName, ...] = Field(
        default=(), description="Comma-separated; those whose argocd-cm gets our health rules."
    )
    argocd_seconds: float = Field(default=60.0, gt=0, description="Between two looks at them.")
    log_poll_seconds: float = Field(default=1.0, gt=0, description="Between two looks at a build.")
    watch_silence_seconds: float = Field(
        default=70.0,
        gt=0,
        description="A watch is opened anew after so long without a word. Bookmarks come each minute.",
    )
    latecomer_seconds: float = Field(
        default=10.0, gt=0, description="Between two looks for kinds that the cluster lacks."
    )
    resync_seconds: float = Field(default=300.0, gt=0, description="Between two full listings.")
    workers: int = Field(default=8, ge=1, le=256, description="Reconciliations at a time.")
    lease: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9-]+/[a-z0-9.-]+$",
        description="Namespace and name of a Lease. Unset: no other operator serves the cluster.",
    )
    lease_seconds: int = Field(
        default=15, ge=3, le=300, description="Others take a lease that is not renewed for so long."
    )
    identity: str | None = Field(
        default=None, min_length=1, description="In the lease. Unset: host and process."
    )
    http_port: int = Field(default=8080, ge=0, le=65535, description="0 takes any free port.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"

    @field_validator("image_pull_secrets", "store_access_modes", "argocd_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("store_s3", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return S3Bucket.model_validate_json(value) if isinstance(value, str) else value

    @property
    def watched(self) -> tuple[Kind, ...]:
        """The kinds of objects that the operator has a view of."""
        return (*WATCHED, NODE) if self.watch_nodes else WATCHED

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read every `PITCREW_<FIELD>`; empty means unset. Raises pydantic.ValidationError."""
        found = {name: environ.get(PREFIX + name.upper(), "") for name in cls.model_fields}
        return cls.model_validate({name: value for name, value in found.items() if value})
