"""Where an LLMEngine's checkpoint and adapters come from."""

import re
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import Adapter, HuggingFaceSource, LocalSource, Model, S3Source
from pitcrew_operator.api.common import ObjectName, Rule, S3Bucket, SecretKey, cel

MODELS_MOUNT = "/models"


class AdapterRepository(Model):
    """An adapter's repository on a Hugging Face compatible hub."""

    repo: str = Field(
        min_length=1,
        max_length=192,
        pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$",
        description="Repository, such as meta-llama/Llama-3.2-1B-Instruct.",
    )
    revision: str = Field(
        default="main",
        min_length=1,
        max_length=128,
        description="Branch, tag or commit; resolved to a commit when the build starts.",
    )
    endpoint: str | None = Field(
        default=None,
        max_length=512,
        pattern=r"^https?://",
        description="Hub to use in place of the public one.",
    )


class HuggingFaceModel(AdapterRepository):
    """A repository on a Hugging Face compatible hub."""

    token_secret_ref: SecretKey | None = Field(
        default=None, description="Where the access token of a gated repository lies."
    )


class VolumeModel(Model):
    """A checkpoint directory on a volume."""

    claim_name: ObjectName = Field(
        description="PersistentVolumeClaim in the engine's namespace that holds the checkpoint."
    )
    path: str = Field(
        min_length=1,
        max_length=512,
        pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        description="Directory of the checkpoint, relative to the volume's root.",
        json_schema_extra=cel(
            Rule(
                rule="!self.split('/').exists(part, part == '.' || part == '..')",
                message="path must not hold '.' or '..'; give the directory relative to the "
                "volume's root",
            )
        ),
    )


class S3Model(S3Bucket):
    """A checkpoint directory in S3-compatible object storage."""


class ModelSource(Model):
    """Where the checkpoint comes from: exactly one source."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="[has(self.huggingFace), has(self.volume), has(self.s3)]"
                ".filter(given, given).size() == 1",
                message="give exactly one of huggingFace, volume and s3",
            )
        )
    )

    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Name of the model for clients. Default: the repository, or the last part of "
        "the path.",
    )
    hugging_face: HuggingFaceModel | None = Field(
        default=None, description="Take the checkpoint from a hub."
    )
    volume: VolumeModel | None = Field(
        default=None, description="Take the checkpoint from a volume."
    )
    s3: S3Model | None = Field(default=None, description="Take the checkpoint from object storage.")

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        sources = (self.hugging_face, self.volume, self.s3)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("model: give exactly one of huggingFace, volume and s3")
        return self

    @property
    def display_name(self) -> str:
        """The model's name for people and clients."""
        if self.name is not None:
            return self.name
        if self.hugging_face is not None:
            return self.hugging_face.repo
        place = f"{self.s3.bucket}/{self.s3.prefix}" if self.s3 else self._volume.path
        return re.sub(r"[^A-Za-z0-9._-]+", "-", place.strip("/").rsplit("/", 1)[-1])

    @property
    def claim_name(self) -> str | None:
        """The claim that holds the checkpoint; None for a source that is no volume."""
        return self.volume.claim_name if self.volume else None

    @property
    def _volume(self) -> VolumeModel:
        assert self.volume is not None, "the validator admits exactly one source"
        return self.volume

    def build_source(self) -> HuggingFaceSource | LocalSource | S3Source:
        """The same source as the builder reads it inside its pod."""
        if self.hugging_face is not None:
            hub = self.hugging_face
            return HuggingFaceSource(repo=hub.repo, revision=hub.revision, endpoint=hub.endpoint)
        if self.s3 is not None:
            return S3Source(**self.s3.location.model_dump(), name=self.display_name)
        path = f"{MODELS_MOUNT}/{self._volume.path}"
        return LocalSource(path=path, name=self.display_name)


class AdapterSource(Model):
    """A LoRA adapter to merge into the weights: on a hub, or on the model's own volume."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="has(self.huggingFace) != has(self.path)",
                message="give exactly one of huggingFace and path",
            )
        )
    )

    hugging_face: AdapterRepository | None = Field(
        default=None, description="Take the adapter from a hub, with the model's token."
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        # No segment begins with a dot: none leads elsewhere.
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$",
        description="Directory of the adapter on the model's volume, relative to its root.",
    )
    weight: str = Field(
        default="1",
        pattern=r"^-?[0-9]{1,3}(\.[0-9]{1,6})?$",
        max_length=11,
        description="What the adapter's change is multiplied by.",
    )

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        if (self.hugging_face is None) == (self.path is None):
            raise ValueError("adapters: give exactly one of huggingFace and path")
        return self

    def build_adapter(self) -> Adapter:
        """The same adapter as the builder reads it inside its pod."""
        if self.hugging_face is not None:
            hub = self.hugging_face
            source = HuggingFaceSource(repo=hub.repo, revision=hub.revision, endpoint=hub.endpoint)
            return Adapter(source=source, weight=self.weight)
        assert self.path is not None, "the validator admits exactly one source"
        name = self.path.rsplit("/", 1)[-1]
        place = LocalSource(path=f"{MODELS_MOUNT}/{self.path}", name=name)
        return Adapter(source=place, weight=self.weight)
