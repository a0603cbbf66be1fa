"""What can go wrong between the operator and the API server.

    ClusterError
    ├── Rejected        the request itself is wrong or not allowed: a user or admin must act
    │   └── Gone        the object, its namespace or its kind is not there
    └── Unavailable     worth a retry: throttled, timed out, refused, restarting
        ├── Conflict    somebody else was faster
        └── NotLeader   another operator may be at work: nothing was sent

An object that is not there is no error: reads answer None, deletions succeed.
"""


class ClusterError(Exception):
    """Base of everything that the cluster client raises."""


class Rejected(ClusterError):
    """The API server understood and said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message

    @property
    def is_permission(self) -> bool:
        """Not allowed (RBAC, quota, a namespace that is going away) rather than wrong."""
        return self.status in (401, 403)


class Gone(Rejected):
    """The object, its namespace or its kind is not there (404)."""


class Unavailable(ClusterError):
    """No answer, or an answer that asks for patience. `retry_after` is in seconds, if told."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Conflict(Unavailable):
    """The object is there already, or has changed since it was read (409)."""


class NotLeader(Unavailable):
    """The lease is not held, or may not be held for long enough; nothing was sent."""
