"""What a plan may ask for. One place performs these, in the order given.

Each says in a few words what it decides, for the log; what changes nothing of the cluster says nothing.
What `can_wait` does not decide how things go on: it may be left out of a pass, and is planned again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pitcrew_operator.api.common import StatusModel
from pitcrew_operator.kinds import Kind
from pitcrew_operator.plan.questions import Question
from pitcrew_operator.views import Meta


@dataclass(frozen=True)
class Apply:
    """Make the object be so, by server-side apply."""

    manifest: Mapping[str, Any]
    can_wait: ClassVar[bool] = False

    @property
    def decision(self) -> str:
        """See above."""
        return f"apply {self.manifest['kind']} {self.manifest['metadata']['name']}"


@dataclass(frozen=True)
class Patch:
    """Change a few fields of a child that may not be applied anew (a Job's template is immutable).

    Refused, and so repeated, where the object has changed since it was seen.
    """

    kind: Kind
    meta: Meta
    fields: Mapping[str, Any]
    """By JSON merge patch (RFC 7386)."""
    can_wait: ClassVar[bool] = False

    @property
    def decision(self) -> str:
        """See above."""
        return f"patch {self.kind.kind} {self.meta.name}: {', '.join(self.fields)}"


@dataclass(frozen=True)
class Delete:
    """Remove exactly this object (a namesake with another UID is left alone)."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    can_wait: ClassVar[bool] = False

    @property
    def decision(self) -> str:
        """See above."""
        return f"delete {self.kind.kind} {self.name}"


@dataclass(frozen=True)
class WriteStatus:
    """Replace our part of the status."""

    kind: Kind
    meta: Meta
    status: StatusModel
    can_wait: bool = False

    @property
    def decision(self) -> str:
        """See above."""
        return f"status of {self.kind.kind}"


@dataclass(frozen=True)
class Emit:
    """Tell users of a transition through an Event."""

    kind: Kind
    meta: Meta
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    at: str
    """RFC 3339 time of the transition."""
    can_wait: bool = False
    decision: ClassVar[str] = ""


@dataclass(frozen=True)
class Ask:
    """Begin to ask the pods; nobody waits for the answer, and its coming is a reason to look again."""

    kind: Kind
    meta: Meta
    question: Question
    can_wait: ClassVar[bool] = False
    decision: ClassVar[str] = ""


@dataclass(frozen=True)
class Requeue:
    """Look again after so many seconds, even if nothing is heard."""

    seconds: float
    can_wait: ClassVar[bool] = False
    decision: ClassVar[str] = ""


Action = Apply | Patch | Delete | WriteStatus | Emit | Ask | Requeue
