"""What a plan may ask for. One place performs these, in the order given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pitcrew_operator.api.common import StatusModel
from pitcrew_operator.kinds import Kind
from pitcrew_operator.plan.questions import Question
from pitcrew_operator.views import Meta


@dataclass(frozen=True)
class Apply:
    """Make the object be so, by server-side apply."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Patch:
    """Change a few fields of a child that may not be applied anew (a Job's template is immutable).

    Refused, and so repeated, where the object has changed since it was seen.
    """

    kind: Kind
    meta: Meta
    fields: Mapping[str, Any]
    """By JSON merge patch (RFC 7386)."""


@dataclass(frozen=True)
class Delete:
    """Remove exactly this object (a namesake with another UID is left alone)."""

    kind: Kind
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class WriteStatus:
    """Replace our part of the status."""

    kind: Kind
    meta: Meta
    status: StatusModel


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


@dataclass(frozen=True)
class Ask:
    """Begin to ask the pods; nobody waits for the answer, and its coming is a reason to look again."""

    kind: Kind
    meta: Meta
    question: Question


@dataclass(frozen=True)
class Requeue:
    """Look again after so many seconds, even if nothing is heard."""

    seconds: float


Action = Apply | Patch | Delete | WriteStatus | Emit | Ask | Requeue
