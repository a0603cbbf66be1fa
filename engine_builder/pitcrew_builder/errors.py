"""Everything that can end a build, and its one translation to an outcome.

BuildError
├── InvalidSpec          the request cannot be met
├── CheckpointNotFound   no such directory, repository, revision or file
├── CheckpointCorrupt    files contradict themselves or each other
├── CheckpointUnsafe     reading it would run code or leave its directory
├── UnknownArchitecture  no family, or a variation of one, that we can draw
├── HubUnreachable       the hub did not answer; later it may
├── StorageUnreachable   object storage did not answer; later it may
│   └── StorageChanged   an object was replaced while it was read
├── StorageRefused       object storage answered no: credentials, bucket, address
├── PromptsUnreachable   the address of the prompts did not answer
├── DiskFull             no room for the engine
├── CompilationFailed    the target's compiler refuses the network
├── ValidationFailed     the engine was built and computes nonsense
├── EngineNotFound       no engine of that name is in the store
├── EngineCorrupt        a published directory does not match its manifest
├── EngineInUse          somebody reads the engine that was to be removed
└── Cancelled            somebody asked us to stop
"""

from pitcrew_builder.report import (
    EXIT_REFUSED,
    EXIT_RETRY,
    MESSAGE_LIMIT,
    Failed,
    FailureReason,
)


class BuildError(Exception):
    """A build ended without an engine. The message says what is wrong and what to do."""

    reason = FailureReason.INTERNAL_ERROR
    retryable = False


class InvalidSpec(BuildError):
    """The request cannot be met by this checkpoint or target."""

    reason = FailureReason.INVALID_SPEC


class CheckpointNotFound(BuildError):
    """No such directory, repository, revision or file."""

    reason = FailureReason.CHECKPOINT_NOT_FOUND


class CheckpointCorrupt(BuildError):
    """Files contradict themselves or each other."""

    reason = FailureReason.CHECKPOINT_CORRUPT


class CheckpointUnsafe(BuildError):
    """Reading the checkpoint would run its code or leave its directory."""

    reason = FailureReason.CHECKPOINT_UNSAFE


class UnknownArchitecture(BuildError):
    """No family can draw this network."""

    reason = FailureReason.UNKNOWN_ARCHITECTURE


class HubUnreachable(BuildError):
    """The hub did not answer."""

    reason = FailureReason.HUB_UNREACHABLE
    retryable = True


class StorageUnreachable(BuildError):
    """Object storage did not answer."""

    reason = FailureReason.STORAGE_UNREACHABLE
    retryable = True


class StorageRefused(BuildError):
    """Object storage answered no."""

    reason = FailureReason.STORAGE_REFUSED


class StorageChanged(StorageUnreachable):
    """An object was replaced or removed while it was read."""


class PromptsUnreachable(BuildError):
    """The address of calibration or proof prompts did not answer."""

    reason = FailureReason.PROMPTS_UNREACHABLE
    retryable = True


class DiskFull(BuildError):
    """A volume has no room for what must be written."""

    reason = FailureReason.DISK_FULL
    # Room may be made meanwhile, and a volume may grow: worth another attempt.
    retryable = True


class CompilationFailed(BuildError):
    """The target's compiler refuses the network."""

    reason = FailureReason.COMPILATION_FAILED


class ValidationFailed(BuildError):
    """The engine was built, and computes what it must not."""

    reason = FailureReason.VALIDATION_FAILED


class EngineNotFound(BuildError):
    """No engine of that name is in the store."""

    reason = FailureReason.ENGINE_NOT_FOUND


class EngineCorrupt(BuildError):
    """A directory of the store does not match its manifest."""

    reason = FailureReason.ENGINE_CORRUPT


class EngineInUse(BuildError):
    """Somebody reads the engine that was to be removed."""

    retryable = True


class Cancelled(BuildError):
    """Somebody asked the build to stop."""

    reason = FailureReason.CANCELLED
    retryable = True


def as_build_error(error: BaseException) -> BuildError:
    """Any exception as one of ours; what nobody foresaw becomes `InternalError`, retryable."""
    if isinstance(error, BuildError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Cancelled("the build was asked to stop; start it again to continue")
    if isinstance(error, OSError):
        return _retryable(
            f"{error.strerror or error}: {error.filename or 'a file'}; check that the volume is "
            f"mounted and that this user may read and write it"
        )
    return _retryable(f"{type(error).__name__}: {error}; please report this as a bug")


def _retryable(message: str) -> BuildError:
    error = BuildError(message)
    error.retryable = True
    return error


def to_failed(error: BuildError) -> Failed:
    """The outcome document of an error."""
    text = str(error)
    if len(text) > MESSAGE_LIMIT:
        text = text[: MESSAGE_LIMIT - 1] + "…"
    return Failed(reason=error.reason, message=text, retryable=error.retryable)


def exit_code(failed: Failed) -> int:
    """2 where repeating is pointless, else 1."""
    return EXIT_RETRY if failed.retryable else EXIT_REFUSED
