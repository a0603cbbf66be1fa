"""Where checkpoints and adapters come from."""

from typing import Annotated, Literal

from pydantic import Field

from pitcrew_builder.spec.base import Model


class HuggingFaceSource(Model):
    """A repository on a Hugging Face compatible hub."""

    kind: Literal["huggingFace"] = "huggingFace"
    repo: str = Field(min_length=1, max_length=192, pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$")
    revision: str = Field(default="main", min_length=1, max_length=128)
    endpoint: str | None = Field(default=None, pattern=r"^https?://")


class LocalSource(Model):
    """A checkpoint directory that is already on a mounted volume."""

    kind: Literal["local"] = "local"
    path: str = Field(min_length=1)
    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")


class S3Location(Model):
    """A place in S3-compatible object storage; who may enter is told elsewhere."""

    bucket: str = Field(
        min_length=3,
        max_length=63,
        pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$",
        description="Name of the bucket.",
    )
    prefix: str = Field(
        default="",
        max_length=512,
        pattern=r"^([^/]+(/[^/]+)*)?$",
        description="Directory in the bucket, such as models/llama. Default: its root.",
    )
    endpoint: str | None = Field(
        default=None,
        max_length=512,
        pattern=r"^https?://",
        description="URL of an S3-compatible server in place of AWS.",
    )
    region: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[a-z0-9-]+$",
        description="Region of the bucket, where the server has several.",
    )


class S3Source(S3Location):
    """A checkpoint directory in object storage. Credentials come from the environment."""

    kind: Literal["s3"] = "s3"
    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")


Source = Annotated[HuggingFaceSource | LocalSource | S3Source, Field(discriminator="kind")]


class Adapter(Model):
    """A LoRA adapter, as PEFT saves it, that is merged into the weights."""

    source: Source
    weight: str = Field(
        default="1",
        pattern=r"^-?[0-9]{1,3}(\.[0-9]{1,6})?$",
        max_length=11,
        description="What the adapter's change is multiplied by.",
    )
