"""What to say where no plan can be made or carried out: an unreadable spec, a refused write."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pitcrew_operator import reasons
from pitcrew_operator.api.deployment import LLMDeploymentStatus
from pitcrew_operator.api.engine import LLMEngineStatus
from pitcrew_operator.kinds import ENGINE, Kind
from pitcrew_operator.plan.actions import Action, WriteStatus
from pitcrew_operator.plan.conditions import (
    Fact,
    Health,
    Situation,
    conditions,
    find,
    recall,
    reconciling,
    stalled,
    transition,
)
from pitcrew_operator.plan.currency import UP_TO_DATE
from pitcrew_operator.views import Meta

OwnStatus = LLMEngineStatus | LLMDeploymentStatus


def invalid(problem: str) -> Situation:
    """The spec does not parse (a CRD older or newer than the operator lets that through)."""
    return stalled(reasons.INVALID_SPEC, f"{problem}; correct the field")


def refused(status: int, message: str, *, is_permission: bool) -> Situation:
    """The API server refused to create or change a child."""
    if is_permission:
        return reconciling(
            reasons.FORBIDDEN,
            f"the API server forbids it ({status}: {message}); check quotas of the namespace and "
            "the operator's role",
        )
    return stalled(
        reasons.REJECTED,
        f"the API server refuses what the spec leads to ({status}: {message}); correct the field "
        "that it names",
    )


def tell_refusal(
    kind: Kind,
    meta: Meta,
    before: OwnStatus,
    actions: Sequence[Action],
    situation: Situation,
    now: datetime,
) -> list[Action]:
    """What to say after one of these actions was refused. An LLMEngine that is Ready all the same stays
    so: only its next engine is held up.
    """
    planned = next((a.status for a in actions if isinstance(a, WriteStatus)), before)
    told = getattr(planned, "conditions", ())
    where, current = recall(told), find(told, UP_TO_DATE)
    if kind is not ENGINE or where is None or where.health is not Health.READY:
        return tell(kind, meta, before, situation, now)
    behind: Literal["False", "Unknown"] = (
        "False" if current and current.status == "False" else "Unknown"
    )
    fact = Fact(UP_TO_DATE, behind, situation.reason, situation.message)
    return tell(kind, meta, before, where, now, [fact])


def tell(
    kind: Kind,
    meta: Meta,
    before: OwnStatus,
    situation: Situation,
    now: datetime,
    facts: Sequence[Fact] = (),
) -> list[Action]:
    """Change nothing but the conditions; no action where they already say so."""
    generation = meta.generation
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "conditions": conditions(situation, generation, before.conditions, now, facts),
        }
    )
    if meta.deleting or status == before:
        return []
    return [
        WriteStatus(kind, meta, status),
        *transition(kind, meta, before, situation, now),
    ]
