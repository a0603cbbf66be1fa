"""What the status of an LLMEngine tells of its versions: one for each identity that was wanted."""

from enum import StrEnum

from pydantic import Field

from pitcrew_operator.api.common import StatusModel
from pitcrew_operator.api.store import EngineBucket


class EngineStatus(StatusModel):
    """A proven engine."""

    id: str = Field(description="Content address: 64 hex digits.")
    tag: str = Field(description="Model, commit and target for people.")
    path: str = Field(description="Directory, relative to the root of the store.")
    claim_name: str | None = Field(
        default=None, description="PersistentVolumeClaim that holds the engine, where it is one."
    )
    s3: EngineBucket | None = Field(
        default=None, description="Object storage that holds the engine, where it is not a claim."
    )
    model: str = Field(description="Name of the model.")
    commit: str = Field(description="Commit or content digest of the checkpoint.")
    cuda: str | None = Field(default=None, description="CUDA that the plans were compiled with.")
    compute_capability: str | None = Field(
        default=None, description="GPUs that the plans run on, such as sm90; absent on CPUs."
    )
    gpu_product: str | None = Field(
        default=None, description="GPU that the plans were measured on, where one was."
    )
    world_size: int = Field(ge=1, description="Ranks that serve one replica.")
    size_bytes: int = Field(ge=0, description="Bytes of all files.")
    manifest_sha256: str = Field(description="Digest of manifest.json.")
    max_batch_size: int = Field(description="Sequences in one step at most.")
    max_sequence_length: int = Field(description="Tokens of prompt and output at most.")
    kv_bytes_per_token: int = Field(description="Bytes of KV cache that one token takes.")
    build_seconds: int = Field(description="Wall time of the build, rounded.")
    cached: bool = Field(description="True where the store already held the engine.")
    scores: dict[str, str] = Field(
        default={}, description="What was measured before it was published, as decimals."
    )


class Prediction(StatusModel):
    """What the planner expects of the engine."""

    rank_weight_bytes: int = Field(description="Weights of the fullest rank.")
    rank_activation_bytes: int = Field(description="Its activations; an estimate.")
    kv_bytes_per_token: int = Field(description="KV cache of one token over all ranks.")
    engine_disk_bytes: int = Field(description="The published directory.")
    build_disk_bytes: int = Field(description="The store's volume during the build.")


class Answer(StatusModel):
    """What the builder says it would make."""

    key: str = Field(description="The engine id where it is known, else what stands for it.")
    engine_id: str | None = Field(
        default=None, description="Absent where only reading the weights tells it."
    )
    tag: str | None = Field(default=None, description="Tag of the engine, where it is known.")
    target_tag: str = Field(description="Toolchain, layout and precision for people.")
    model: str = Field(description="Name of the model.")
    commit: str = Field(description="Commit of the checkpoint, or what stands for it.")
    adapter_commits: tuple[str, ...] = Field(
        default=(), description="Commits of the merged adapters, in the spec's order."
    )
    toolchain: dict[str, str] = Field(description="Versions of compilers and runtimes.")
    builder_version: str = Field(description="Version of the builder.")
    world_size: int = Field(description="Ranks that one replica needs.")
    prediction: Prediction = Field(description="What the planner expects.")
    misfit: str | None = Field(
        default=None, description="Why the GPUs of the nodes do not hold the engine."
    )


class Pool(StatusModel):
    """The GPUs that a plan is for, as the labels of their nodes tell."""

    product: str = Field(description="As in nvidia.com/gpu.product.")
    compute_capability: str = Field(description="Such as sm90.")
    driver: int = Field(description="Branch of the driver.")
    cuda: str = Field(description="Newest CUDA that the driver knows.")
    memory_bytes: int = Field(description="Memory of one GPU.")
    total: int = Field(description="GPUs of the product on all nodes that the spec allows.")
    node_selector: dict[str, str] = Field(description="Labels that lead to the nodes.")


class Resolution(StatusModel):
    """The newest look at what would be built."""

    inputs: str = Field(description="Digest of everything that was asked.")
    at: str = Field(description="RFC 3339: when the look was taken.")
    job_uid: str = Field(default="", description="The Job that looked.")
    source_uid: str | None = Field(
        default=None, description="The claim that held the checkpoint, where one did."
    )
    pool: Pool | None = Field(
        default=None, description="The GPUs, for plans; they are remembered while no node is there."
    )
    answer: Answer | None = Field(default=None, description="What would be built.")
    reason: str | None = Field(default=None, description="Why there is no newer answer.")
    message: str | None = Field(default=None, description="What to do about that.")
    retryable: bool = Field(
        default=False, description="Whether the look is repeated by itself, after some minutes."
    )


class Phase(StrEnum):
    """How far a version has come."""

    BUILDING = "Building"
    READY = "Ready"
    FAILED = "Failed"
    RETIRED = "Retired"


class EngineVersion(StatusModel):
    """One identity of the engine, from the start of its build to its removal."""

    key: str = Field(description="Digest of all that was asked; it names the build Job.")
    spec_hash: str = Field(description="Digest of the part of it that the spec gave.")
    phase: Phase = Field(description="Building, Ready, Failed, or Retired: being removed.")
    id: str | None = Field(default=None, description="Content address; absent until it is known.")
    tag: str | None = Field(default=None, description="Model, commit and target for people.")
    target_tag: str = Field(description="Toolchain, layout and precision for people.")
    commit: str = Field(description="Commit of the checkpoint, or what stands for it.")
    toolchain: dict[str, str] = Field(
        default={}, description="Versions of compilers and runtimes that it is built with."
    )
    builder_version: str = Field(default="", description="Version of the builder.")
    platform: dict[str, str] = Field(
        default={}, description="GPU product, driver and CUDA that plans are tuned on."
    )
    trigger: str = Field(default="", description="spec.rebuildPolicy.trigger that it answers.")
    image: str = Field(default="", description="Builder image of its newest attempt.")
    settings: str = Field(default="", description="Digest of spec.build of its newest attempt.")
    job_name: str = Field(description="The build Job.")
    job_uid: str | None = Field(default=None, description="The Job whose end is told here.")
    reason: str | None = Field(default=None, description="Why the build failed.")
    message: str | None = Field(default=None, description="What was wrong, and what to do.")
    started_at: str = Field(description="RFC 3339: when it was first wanted.")
    finished_at: str | None = Field(default=None, description="RFC 3339: when its build ended.")
    engine: EngineStatus | None = Field(default=None, description="The engine, once it is proven.")
