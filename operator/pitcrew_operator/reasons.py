"""Every reason that a condition or event may bear, besides those that builds report themselves.

The reasons of failed builds are `pitcrew_builder.report.FailureReason`; the reasons of failed
pods are what the runtime writes as the first word of its termination message.
"""

from typing import Final

# How the number of replicas follows the load (conditions ScalingActive and ScalingLimited).
METRICS_FOUND: Final = "MetricsFound"
METRICS_MISSING: Final = "MetricsMissing"
GPU_METRICS_MISSING: Final = "GpuMetricsMissing"
METRICS_STALE: Final = "MetricsStale"
NO_READY_REPLICA: Final = "NoReadyReplica"
WITHIN_RANGE: Final = "DesiredWithinRange"
TOO_MANY_REPLICAS: Final = "TooManyReplicas"
SCALED_UP: Final = "ScaledUp"
SCALED_DOWN: Final = "ScaledDown"

# Ready.
ENGINE_READY: Final = "EngineReady"
SERVING: Final = "Serving"
SCALED_TO_ZERO: Final = "ScaledToZero"

# Whether the engine is what would be built today (condition UpToDate).
UP_TO_DATE: Final = "UpToDate"
NO_ENGINE: Final = "NoEngine"
CUDA_DRIFT: Final = "CudaDrift"
BUILDER_CHANGED: Final = "BuilderChanged"
REVISION_MOVED: Final = "RevisionMoved"
SPEC_CHANGED: Final = "SpecChanged"

# On the way.
RESOLVING: Final = "Resolving"
QUEUED: Final = "Queued"
FINISHING: Final = "FinishingEarlierBuild"
WAITING_FOR_COLLECTION: Final = "WaitingForCollection"
AWAITING_WINDOW: Final = "AwaitingWindow"
BUILD_STARTING: Final = "BuildStarting"
BUILDING: Final = "Building"
RETRYING: Final = "Retrying"
BUILD_LOST: Final = "BuildLost"
CREATING_STORE: Final = "CreatingStore"
ENGINE_NOT_READY: Final = "EngineNotReady"
ROLLING_OUT: Final = "RollingOut"
CANARY: Final = "Canary"
CANARY_STEP: Final = "CanaryStep"
PAUSED: Final = "RolloutPaused"
ROLLING_BACK: Final = "RollingBack"
PROVING_SERVICE: Final = "ProvingService"
WAITING_FOR_DELETION: Final = "WaitingForDeletion"

# On the way, but only if somebody acts.
SOURCE_VOLUME_NOT_FOUND: Final = "SourceVolumeNotFound"
PROMPTS_NOT_FOUND: Final = "PromptsNotFound"
STORE_NOT_FOUND: Final = "EngineStoreNotFound"
WAITING_FOR_VOLUME: Final = "WaitingForVolume"
UNSCHEDULABLE: Final = "Unschedulable"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
POD_MISCONFIGURED: Final = "PodMisconfigured"
ENGINE_NOT_FOUND: Final = "EngineNotFound"
POD_FAILING: Final = "PodFailing"
POD_LOST: Final = "PodLost"
PODS_REFUSED: Final = "PodsRefused"
FORBIDDEN: Final = "Forbidden"
SERVICE_UNREACHABLE: Final = "ServiceUnreachable"

# Stuck until the user changes something.
SUSPENDED: Final = "Suspended"
ROLLED_BACK: Final = "RolledBack"
AWAITING_TRIGGER: Final = "AwaitingTrigger"
DOES_NOT_FIT: Final = "DoesNotFit"
RESOLVE_FAILED: Final = "ResolveFailed"
VERSION_NOT_FOUND: Final = "VersionNotFound"
GPU_COUNT_MISMATCH: Final = "GpuCountMismatch"
INVALID_SPEC: Final = "InvalidSpec"
REJECTED: Final = "Rejected"
NAME_CONFLICT: Final = "NameConflict"
WORLD_SIZE_MISMATCH: Final = "WorldSizeMismatch"
LEADER_WORKER_SET_MISSING: Final = "LeaderWorkerSetMissing"
INFERENCE_POOL_MISSING: Final = "InferencePoolMissing"
DEADLINE_EXCEEDED: Final = "DeadlineExceeded"
OUT_OF_MEMORY: Final = "OutOfMemory"
BUILD_FAILED: Final = "BuildFailed"
UNREADABLE_REPORT: Final = "UnreadableReport"

NEEDS_ATTENTION: Final = frozenset(
    {
        RETRYING,
        BUILD_LOST,
        SOURCE_VOLUME_NOT_FOUND,
        PROMPTS_NOT_FOUND,
        STORE_NOT_FOUND,
        WAITING_FOR_VOLUME,
        UNSCHEDULABLE,
        IMAGE_PULL_FAILED,
        POD_MISCONFIGURED,
        ENGINE_NOT_FOUND,
        POD_FAILING,
        POD_LOST,
        PODS_REFUSED,
        FORBIDDEN,
        SERVICE_UNREACHABLE,
        ROLLING_BACK,
        ROLLED_BACK,
    }
)
