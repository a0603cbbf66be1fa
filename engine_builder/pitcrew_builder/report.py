"""What a build says while it runs and when it ends; the operator reads it from the pod.

Pure: standard library and pydantic. Progress goes to standard output, one JSON object a line. The
outcome goes to the termination-message file, which Kubernetes keeps in the pod's status (4 KiB).
Exit codes: 0 published or found, 2 refused (repeating is pointless), 1 anything worth a retry.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from pitcrew_builder.spec import Model, TaskMetric
from pitcrew_builder.spec.base import is_empty

EXIT_REFUSED = 2
EXIT_RETRY = 1
MESSAGE_LIMIT = 2048


class Phase(StrEnum):
    """The named stages of a build, in order."""

    RESOLVE = "Resolve"
    PARSE = "Parse"
    GRAPH = "Graph"
    OPTIMIZE = "Optimize"
    QUANTIZE = "Quantize"
    SERIALIZE = "Serialize"
    VALIDATE = "Validate"
    PUBLISH = "Publish"


class Progress(Model):
    """One line of progress."""

    kind: Literal["progress"] = "progress"
    phase: Phase
    percent: int = Field(ge=0, le=100, description="Of the whole build; never decreases.")
    message: str = ""


class FailureReason(StrEnum):
    """Why there is no engine, or no sound one. Used as the reason of conditions and events."""

    INVALID_SPEC = "InvalidSpec"
    CHECKPOINT_NOT_FOUND = "CheckpointNotFound"
    CHECKPOINT_CORRUPT = "CheckpointCorrupt"
    CHECKPOINT_UNSAFE = "CheckpointUnsafe"
    UNKNOWN_ARCHITECTURE = "UnknownArchitecture"
    HUB_UNREACHABLE = "HubUnreachable"
    STORAGE_UNREACHABLE = "StorageUnreachable"
    STORAGE_REFUSED = "StorageRefused"
    PROMPTS_UNREACHABLE = "PromptsUnreachable"
    DISK_FULL = "DiskFull"
    ENGINE_NOT_FOUND = "EngineNotFound"
    ENGINE_CORRUPT = "EngineCorrupt"
    COMPILATION_FAILED = "CompilationFailed"
    VALIDATION_FAILED = "ValidationFailed"
    CANCELLED = "Cancelled"
    INTERNAL_ERROR = "InternalError"


class TaskSummary(Model):
    """The engine's score at a task, in percent."""

    metric: TaskMetric
    score: float
    reference_score: float | None = None


class ProofSummary(Model):
    """The worst figures of the proof over all shapes, and the tasks."""

    perplexity: float
    reference_perplexity: float
    top1_agreement: float
    kl_divergence: float
    tasks: tuple[TaskSummary, ...] = Field(default=(), exclude_if=is_empty)


class Succeeded(Model):
    """An engine is published under `path`, by this build or by an earlier one."""

    kind: Literal["succeeded"] = "succeeded"
    engine_id: str
    tag: str
    path: str = Field(description="Relative to the store's root.")
    model: str
    commit: str
    world_size: int
    size_bytes: int
    manifest_sha256: str
    max_batch_size: int
    max_sequence_length: int
    kv_bytes_per_token: int
    cached: bool = Field(description="True where the engine was already in the store.")
    seconds: float
    proof: ProofSummary | None = None
    warnings: tuple[str, ...] = ()


class Failed(Model):
    """No engine was published, and nothing partial is visible."""

    kind: Literal["failed"] = "failed"
    reason: FailureReason
    message: str = Field(max_length=MESSAGE_LIMIT, description="What is wrong and what to do.")
    retryable: bool = False


class Prediction(Model):
    """What an engine will weigh and need. Bytes and seconds; of a rank, those of the fullest."""

    rank_weight_bytes: int
    rank_activation_bytes: int = Field(description="An estimate.")
    kv_bytes_per_token: int = Field(description="Over all ranks.")
    engine_disk_bytes: int
    build_disk_bytes: int = Field(description="On the store's volume, the engine included.")
    build_ram_bytes: int = Field(description="Rough.")
    build_seconds: int = Field(
        description="Rough, without a download, a calibration or a proof on prompts."
    )


class Resolved(Model):
    """What a build of this spec by this builder would make at this moment. Nothing was built."""

    kind: Literal["resolved"] = "resolved"
    key: str = Field(
        description="64 hex digits: the engine id where it is known, else what stands for it: the "
        "same place with the same key holds the same checkpoint."
    )
    engine_id: str | None = Field(description="Null where only reading the weights tells it.")
    tag: str | None = Field(description="As the engine's; null where its commit is not known yet.")
    target_tag: str
    model: str
    commit: str = Field(description="As in `key`: the commit, or what stands for it.")
    adapter_commits: tuple[str, ...] = Field(
        default=(), description="The same of each merged adapter, in the spec's order."
    )
    toolchain: dict[str, str]
    builder_version: str
    world_size: int
    prediction: Prediction
    misfit: str | None = Field(
        default=None,
        max_length=MESSAGE_LIMIT,
        description="Why the GPUs that were named do not hold the engine, and what would fit.",
    )


Outcome = Annotated[Succeeded | Failed, Field(discriminator="kind")]

_OUTCOME: TypeAdapter[Succeeded | Failed] = TypeAdapter(Outcome)


_RESOLUTION: TypeAdapter[Resolved | Failed] = TypeAdapter(
    Annotated[Resolved | Failed, Field(discriminator="kind")]
)


def parse_resolution(text: str) -> Resolved | Failed | None:
    """Read what `pitcrew-build resolve` left; None where it is something else or nothing."""
    try:
        return _RESOLUTION.validate_json(text)
    except ValueError:
        return None


def parse_outcome(text: str) -> Succeeded | Failed | None:
    """Read a termination message; None where it holds no outcome (the process was killed)."""
    try:
        return _OUTCOME.validate_json(text)
    except ValueError:
        return None


def last_progress(log: str) -> Progress | None:
    """The newest progress line of a log tail; other lines are ignored."""
    for line in reversed(log.splitlines()):
        try:
            return Progress.model_validate_json(line)
        except ValueError:
            continue
    return None
