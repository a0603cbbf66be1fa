"""Every error that the runtime raises on purpose.

    RuntimeFault
    ├── StartupError            the process cannot serve: exit code 2, one termination-log line
    │   ├── InvalidOption       a command-line value
    │   ├── EngineNotFound      no engine at the path
    │   ├── EngineCorrupt       a file is missing or is not the one that the manifest lists
    │   ├── EngineIncompatible  another schema, target or graph than this runtime serves
    │   ├── WorldSizeMismatch   built for another number of ranks
    │   ├── NotEnoughMemory     the KV pool would not hold one page
    │   ├── RankFailed          a rank ended or could not load its part
    │   └── CanaryMismatch      the engine does not repeat what its builder saw
    ├── GroupLost               a member of a split engine is gone: exit code 1, to start anew
    ├── RequestError            one request is refused or fails; the others go on
    │   ├── InvalidRequest, ModelNotFound, Unauthorized
    │   ├── BodyTooLarge, BodyEncoded, HeadersTooLarge
    │   ├── InvalidAdapter, AdapterConflict, NotEnabled
    │   ├── QueueFull, NotReady, Draining
    │   └── DeadlineExceeded, GenerationFailed
    └── InvariantViolated       bookkeeping is wrong: nothing more may leave this process

HTTP codes are given to them in `server.problems`, exit codes in `cli`.
"""

from typing import ClassVar


class RuntimeFault(Exception):
    """Root of the tree."""


class StartupError(RuntimeFault):
    """The process cannot serve this engine; trying again without a change is pointless."""

    reason: ClassVar[str] = "StartupFailed"

    @property
    def line(self) -> str:
        """`<Reason>: <message>` on one line, for the termination log."""
        return f"{self.reason}: {' '.join(str(self).split())}"


class InvalidOption(StartupError):
    """A command-line value that cannot be served."""

    reason = "InvalidOption"


class EngineNotFound(StartupError):
    """The path holds no engine."""

    reason = "EngineNotFound"


class EngineCorrupt(StartupError):
    """A listed file is missing, short, altered or unreadable."""

    reason = "EngineCorrupt"


class EngineIncompatible(StartupError):
    """A sound engine, but not one for this runtime."""

    reason = "EngineIncompatible"


class WorldSizeMismatch(StartupError):
    """The engine has another number of ranks than this runtime was started with."""

    reason = "WorldSizeMismatch"


class NotEnoughMemory(StartupError):
    """The KV pool does not fit."""

    reason = "NotEnoughMemory"


class RankFailed(StartupError):
    """A rank of a split engine ended, or could not load its part."""

    reason = "RankFailed"


class CanaryMismatch(StartupError):
    """Warm, the engine says something else than it said when it was built."""

    reason = "CanaryMismatch"


class GroupLost(RuntimeFault):
    """A rank, a pod or the leader of a split engine is gone; the others are of no use without it."""


class RequestError(RuntimeFault):
    """One request is refused or failed. `param` names the field at fault, where there is one."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """The request asks for something impossible or unsupported."""


class ModelNotFound(RequestError):
    """The request names a model that is not served here."""


class InvalidAdapter(RequestError):
    """A directory that holds no adapter, or none that this engine can serve."""


class AdapterConflict(RequestError):
    """The name that an adapter is to have, or the memory that it needs, is taken."""


class NotEnabled(RequestError):
    """The server was started without what the request asks for."""


class Unauthorized(RequestError):
    """No API key, or a wrong one."""


class BodyTooLarge(RequestError):
    """The body is over the limit."""


class BodyEncoded(RequestError):
    """The body is compressed."""


class HeadersTooLarge(RequestError):
    """The headers are over the limits."""


class QueueFull(RequestError):
    """As many requests wait as may. `retry_after` is in seconds, where it is known."""

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(RequestError):
    """The engine is still warming up, or the step loop has died."""


class Draining(RequestError):
    """The process is shutting down and finishes what it has."""


class DeadlineExceeded(RequestError):
    """The answer was not complete within the time that its request gave it."""


class GenerationFailed(RequestError):
    """The executor failed while this request was in its batch."""


class InvariantViolated(RuntimeFault):
    """A page is not owned as the table says. The batch must not run."""
