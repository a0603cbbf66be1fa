"""What a `coordination.k8s.io` Lease says, and what one writes into it; pure.

Clocks of two machines are never compared. A lease counts as expired when nobody has changed it for
its whole duration by the clock of whoever watches it, as client-go has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pitcrew_operator.kinds import LEASE, Raw

_DEADLINE: Final = 2 / 3
_RETRY: Final = 2 / 15


@dataclass(frozen=True)
class Timing:
    """Seconds. The shares of the duration are those of Kubernetes' own components: 15, 10 and 2."""

    duration: int
    """Others take a lease that was not renewed for so long."""

    @property
    def deadline(self) -> float:
        """The holder stops so long after it asked for its last renewal that succeeded.

        What remains of the duration is for writes that are on their way.
        """
        return self.duration * _DEADLINE

    @property
    def retry(self) -> float:
        """Between two renewals, and between two looks of those who wait."""
        return self.duration * _RETRY


@dataclass(frozen=True)
class Sight:
    """A lease as it was read, and when its present text was first seen, by our own clock."""

    raw: Raw
    since: float

    def looked(self, raw: Raw, now: float) -> "Sight":
        """The next look at it."""
        return self if _version(raw) == _version(self.raw) else Sight(raw, now)

    def is_free(self, identity: str, now: float) -> bool:
        """Whether we may take it: nobody's, ours from an earlier life, or expired."""
        spec = self.raw.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        return holder in ("", identity) or now >= self.since + (
            spec.get("leaseDurationSeconds") or 0
        )


def holder(raw: Raw) -> str:
    """Who holds it; empty where nobody does."""
    return str((raw.get("spec") or {}).get("holderIdentity") or "")


def first(namespace: str, name: str, identity: str, timing: Timing, now: datetime) -> Raw:
    """A lease where there was none."""
    empty = {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "metadata": {"namespace": namespace, "name": name},
    }
    return taken(empty, identity, timing, now)


def taken(raw: Raw, identity: str, timing: Timing, now: datetime) -> Raw:
    """The lease as we hold it from now on, or go on holding it."""
    spec: Mapping[str, Any] = raw.get("spec") or {}
    fields: dict[str, Any] = {
        "holderIdentity": identity,
        "leaseDurationSeconds": timing.duration,
        "renewTime": _micro(now),
    }
    if spec.get("holderIdentity") != identity:
        before = spec.get("leaseTransitions")
        fields["acquireTime"] = fields["renewTime"]
        fields["leaseTransitions"] = 0 if before is None else before + 1
    return {**raw, "spec": {**spec, **fields}}


def released(raw: Raw) -> Raw:
    """The lease as nobody's; the next one need not wait."""
    return {**raw, "spec": {**(raw.get("spec") or {}), "holderIdentity": ""}}


def _version(raw: Raw) -> object:
    return raw["metadata"].get("resourceVersion")


def _micro(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
