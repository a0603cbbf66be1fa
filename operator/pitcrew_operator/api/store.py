"""Where the engines of an LLMEngine are kept: on a volume, or in object storage."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import ObjectName, Rule, S3Bucket, StatusModel, cel


class EngineStore(Model):
    """The volume or the bucket that engines are published to."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="!(has(self.claimName) && has(self.s3))",
                message="give claimName or s3, not both; leave both out for the operator's own",
            )
        )
    )

    claim_name: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim for engines. Default: the operator's own store, which is "
        "a claim that it creates for the namespace and never deletes, or its bucket.",
    )
    s3: S3Bucket | None = Field(
        default=None, description="S3-compatible object storage for engines; pods pull a copy."
    )

    @model_validator(mode="after")
    def _at_most_one_place(self) -> Self:
        if self.claim_name is not None and self.s3 is not None:
            raise ValueError(
                "store: give claimName or s3, not both; leave both out for the operator's own"
            )
        return self


class EngineBucket(S3Bucket, StatusModel):
    """The bucket that holds a proven engine, and the Secret that opens it."""
