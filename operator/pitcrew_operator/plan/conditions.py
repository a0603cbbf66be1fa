"""Situations and how they are told: kstatus conditions, and an event on a transition.

Ready is True when the spec of the observed generation is fulfilled. Reconciling is True while the
operator expects to get there by itself, Stalled when it will not without a change by the user.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from pitcrew_operator.api.common import Condition, StatusModel
from pitcrew_operator.kinds import Kind
from pitcrew_operator.plan.actions import Emit
from pitcrew_operator.reasons import NEEDS_ATTENTION
from pitcrew_operator.views import Meta

_MESSAGE_LIMIT = 4096
NOTE_LIMIT = 1024


class Health(StrEnum):
    """Which of the three conditions is True."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


@dataclass(frozen=True)
class Situation:
    """Where a resource stands, in one word for programs and one sentence for people."""

    health: Health
    reason: str
    message: str
    is_trouble: bool = False
    """Whatever its reason, which is a pod's own word."""

    @property
    def is_warning(self) -> bool:
        """Whether somebody should look."""
        stuck = self.health is Health.STALLED
        return stuck or self.is_trouble or self.reason in NEEDS_ATTENTION


def ready(reason: str, message: str) -> Situation:
    """The spec is fulfilled."""
    return Situation(Health.READY, reason, message)


def reconciling(reason: str, message: str) -> Situation:
    """On the way."""
    return Situation(Health.RECONCILING, reason, message)


def stalled(reason: str, message: str) -> Situation:
    """Stuck until the user changes something."""
    return Situation(Health.STALLED, reason, message)


def rfc3339(now: datetime) -> str:
    """A time as Kubernetes writes it, in whole seconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Fact:
    """A condition beside the three."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def conditions(
    situation: Situation,
    generation: int,
    previous: Iterable[Condition],
    now: datetime,
    facts: Sequence[Fact] = (),
) -> tuple[Condition, ...]:
    """The three conditions and the facts; a transition time changes only with its own status.

    What is known of other conditions stays as it is.
    """
    before = {condition.type: condition for condition in previous}
    told = [*_healths(situation), *facts]
    new = tuple(_condition(fact, generation, before.pop(fact.type, None), now) for fact in told)
    return (*new, *before.values())


def _healths(situation: Situation) -> Iterator[Fact]:
    for health in Health:
        holds = health is situation.health
        message = situation.message if holds or health is Health.READY else ""
        yield Fact(health.value, "True" if holds else "False", situation.reason, message)


def _condition(fact: Fact, generation: int, before: Condition | None, now: datetime) -> Condition:
    same = before is not None and before.status == fact.status
    return Condition(
        type=fact.type,
        status=fact.status,
        reason=fact.reason,
        message=fact.message[:_MESSAGE_LIMIT],
        last_transition_time=before.last_transition_time if before and same else rfc3339(now),
        observed_generation=generation,
    )


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, if it was ever written."""
    return next((c for c in conditions if c.type == kind), None)


def recall(conditions: Iterable[Condition]) -> Situation | None:
    """The situation that was written last, if any."""
    recorded = tuple(conditions)
    for health in Health:
        condition = find(recorded, health)
        if condition and condition.status == "True":
            return Situation(health, condition.reason, condition.message)
    return None


def is_first_word(previous: Sequence[Condition], situation: Situation) -> bool:
    """Whether nothing was told yet, and there is nothing to tell but that it is on its way."""
    return not previous and situation.health is Health.RECONCILING and not situation.is_warning


def transition(
    kind: Kind,
    meta: Meta,
    before: StatusModel,
    situation: Situation,
    now: datetime,
    *,
    can_wait: bool = False,
) -> list[Emit]:
    """The event that this transition deserves: none where health and reason are as before."""
    last = recall(getattr(before, "conditions", ()))
    if last and (last.health, last.reason) == (situation.health, situation.reason):
        return []
    level: Literal["Normal", "Warning"] = "Warning" if situation.is_warning else "Normal"
    note = situation.message[:NOTE_LIMIT]
    return [Emit(kind, meta, level, situation.reason, note, rfc3339(now), can_wait)]
