"""LLMEngine: a checkpoint and what to make of it; its status names the engine that was built."""

import re
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import (
    MAX_RANKS,
    Adapter,
    BuildSpec,
    HuggingFaceSource,
    LocalSource,
    Model,
    Parallelism,
    Precision,
    Proof,
    Quantization,
    S3Source,
    Shapes,
    Target,
    TensorRt,
)
from pitcrew_operator.api.common import (
    Condition,
    LocalObjectReference,
    ObjectName,
    PodSettings,
    Rule,
    SecretKey,
    StatusModel,
    cel,
)

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


class S3Model(Model):
    """A checkpoint directory in S3-compatible object storage."""

    bucket: str = Field(
        min_length=3,
        max_length=63,
        pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$",
        description="Bucket that holds the checkpoint.",
    )
    prefix: str = Field(
        default="",
        max_length=512,
        pattern=r"^([^/]+(/[^/]+)*)?$",
        description="Directory of the checkpoint in the bucket, such as models/llama.",
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
    credentials_secret_ref: LocalObjectReference | None = Field(
        default=None,
        description="Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and "
        "AWS_SESSION_TOKEN where there is one. Default: the identity of the pod.",
    )


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
            place = self.s3.model_dump(exclude={"credentials_secret_ref"})
            return S3Source(**place, name=self.display_name)
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


class EngineStore(Model):
    """The volume that engines are published to."""

    claim_name: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim for engines. Default: one that the operator creates "
        "for the namespace and never deletes.",
    )


class BuildSettings(PodSettings):
    """The build Job."""

    active_deadline_seconds: int = Field(
        default=86400,
        ge=60,
        le=604800,
        description="Seconds after which a build is given up, retries included.",
    )


class LLMEngineSpec(Model):
    """What to build."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="!has(self.parallelism) || self.parallelism.tensor * "
                f"self.parallelism.pipeline * self.parallelism.expert <= {MAX_RANKS}",
                message=f"parallelism: tensor x pipeline x expert must be {MAX_RANKS} ranks at "
                "most; lower one of the three",
            ),
            Rule(
                rule="self.target == 'onnxruntime-cpu' ? self.precision == 'fp32' : "
                "self.precision != 'fp32'",
                message="precision: target onnxruntime-cpu computes in fp32, tensorrt and "
                "tensorrt-rtx in fp16 or bf16; set precision to match the target",
            ),
            Rule(
                rule="(self.target != 'onnxruntime-cpu') == has(self.tensorrt)",
                message="tensorrt: targets tensorrt and tensorrt-rtx need "
                "tensorrt.computeCapability, and onnxruntime-cpu has no such options",
            ),
            Rule(
                rule="!has(self.adapters) || has(self.model.volume) || "
                "!self.adapters.exists(adapter, has(adapter.path))",
                message="adapters: a path is one on the model's volume; set model.volume, or take "
                "the adapter from a hub",
            ),
        )
    )

    model: ModelSource = Field(description="The checkpoint.")
    adapters: tuple[AdapterSource, ...] = Field(
        default=(), max_length=8, description="LoRA adapters to merge into the weights, in order."
    )
    target: Target = Field(default=Target.ONNXRUNTIME_CPU, description="What executes the engine.")
    precision: Precision = Field(
        default=Precision.FP32, description="Arithmetic of weights and activations."
    )
    parallelism: Parallelism = Field(
        default=Parallelism(), description="How the model is split over ranks."
    )
    shapes: Shapes = Field(
        default=Shapes(), description="The limits that the engine is compiled for."
    )
    tensorrt: TensorRt | None = Field(
        default=None, description="How a plan is compiled. Targets tensorrt and tensorrt-rtx."
    )
    quantization: Quantization | None = Field(
        default=None, description="Narrower weights. Default: none."
    )
    proof: Proof | None = Field(
        default=None, description="What a build must show on held-out prompts to be published."
    )
    store: EngineStore = Field(default=EngineStore(), description="Where the engine is kept.")
    build: BuildSettings = Field(default=BuildSettings(), description="How the build Job runs.")

    @model_validator(mode="after")
    def _paths_have_a_volume(self) -> Self:
        paths = [adapter.path for adapter in self.adapters if adapter.path is not None]
        if paths and self.model.volume is None:
            raise ValueError(
                f"adapters: path '{paths[0]}' is one on the model's volume; set model.volume, or "
                f"take the adapter from a hub"
            )
        return self

    def build_spec(self) -> BuildSpec:
        """The request that the builder receives. Raises ValueError where the layout cannot be."""
        return BuildSpec(
            source=self.model.build_source(),
            adapters=tuple(adapter.build_adapter() for adapter in self.adapters),
            target=self.target,
            precision=self.precision,
            parallelism=self.parallelism,
            shapes=self.shapes,
            tensorrt=self.tensorrt,
            quantization=self.quantization,
            proof=self.proof,
        )


class EngineStatus(StatusModel):
    """The proven engine. It stays until a newer one takes its place."""

    id: str = Field(description="Content address: 64 hex digits.")
    tag: str = Field(description="Model, commit and target for people.")
    path: str = Field(description="Directory, relative to the root of the volume.")
    claim_name: str = Field(description="PersistentVolumeClaim that holds the engine.")
    model: str = Field(description="Name of the model.")
    commit: str = Field(description="Commit or content digest of the checkpoint.")
    world_size: int = Field(ge=1, description="Ranks that serve one replica.")
    size_bytes: int = Field(ge=0, description="Bytes of all files.")
    manifest_sha256: str = Field(description="Digest of manifest.json.")
    max_batch_size: int = Field(description="Sequences in one step at most.")
    max_sequence_length: int = Field(description="Tokens of prompt and output at most.")
    kv_bytes_per_token: int = Field(description="Bytes of KV cache that one token takes.")
    build_seconds: int = Field(description="Wall time of the build, rounded.")
    cached: bool = Field(description="True where the store already held the engine.")


class BuildStatus(StatusModel):
    """The newest build."""

    job_name: str = Field(description="Name of the Job.")
    spec_hash: str = Field(description="Digest of everything that the Job was made from.")
    state: str = Field(description="Running, Succeeded or Failed.")
    reason: str | None = Field(default=None, description="Why a failed build failed.")
    message: str | None = Field(
        default=None, description="What was wrong with a failed build, and what to do."
    )


class LLMEngineStatus(StatusModel):
    """What is the case."""

    observed_generation: int = Field(
        default=0, ge=0, description="The generation that this status is about."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="Ready, Reconciling and Stalled.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    model: str | None = Field(default=None, description="Name of the model being built or served.")
    progress: str | None = Field(
        default=None, description="Phase and percent of the running build, such as Serialize 62%."
    )
    engine: EngineStatus | None = Field(default=None, description="The engine to serve.")
    build: BuildStatus | None = Field(default=None, description="The newest build.")
