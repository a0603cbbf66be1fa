"""Whether the version that is wanted may be built at this moment."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pitcrew_operator import reasons
from pitcrew_operator.api.policy import RebuildMode
from pitcrew_operator.api.version import Answer, EngineVersion
from pitcrew_operator.order import Order
from pitcrew_operator.plan.actions import Action, Requeue
from pitcrew_operator.plan.book import Book
from pitcrew_operator.plan.building import failure
from pitcrew_operator.plan.conditions import Situation, reconciling, rfc3339, stalled
from pitcrew_operator.plan.preflight import misfit
from pitcrew_operator.plan.window import until_open
from pitcrew_operator.views import Job


@dataclass(frozen=True)
class Held:
    """Not now: why, and when to look again."""

    situation: Situation
    actions: tuple[Action, ...] = ()


def may_begin(order: Order, answer: Answer, book: Book, now: datetime) -> Held | None:
    """Why a version may not be begun at this moment; None where it may."""
    if order.engine.spec.suspend:
        text = "spec.suspend is true, so nothing is built; set it to false to go on"
        return Held(stalled(reasons.SUSPENDED, text))
    problem = misfit(order, answer)
    if problem is not None:
        return Held(stalled(reasons.DOES_NOT_FIT, problem))
    return _policy(order, book, now)


def is_spent(order: Order, version: EngineVersion, job: Job | None) -> bool:
    """Whether a failed version stays failed: nothing that it was tried with has changed."""
    if job is not None and job.meta.uid != version.job_uid and not job.meta.deleting:
        return False  # another LLMEngine tries it again
    policy = order.engine.spec.rebuild_policy
    return (version.trigger, version.image, version.settings) == (
        policy.trigger,
        order.image,
        order.settings,
    )


def told(version: EngineVersion, book: Book) -> Situation:
    """A failure, and what serves nevertheless."""
    situation = failure(version)
    kept = f" The earlier engine {book.engine.tag} stays in service." if book.engine else ""
    return stalled(situation.reason, situation.message + kept)


def _policy(order: Order, book: Book, now: datetime) -> Held | None:
    """What the policy says to a change from outside; the spec's own changes are its author's word."""
    policy, serving = order.engine.spec.rebuild_policy, book.serving
    if serving is None or serving.spec_hash != order.spec_hash:
        return None
    if policy.mode is RebuildMode.AUTO or policy.trigger != serving.trigger:
        return None
    if policy.window is None:
        text = "a newer engine could be built; set spec.rebuildPolicy.trigger to another text"
        return Held(stalled(reasons.AWAITING_TRIGGER, text))
    wait = until_open(policy.window, now)
    if wait <= timedelta():
        return None
    text = f"a newer engine is built when the window opens, at {rfc3339(now + wait)}"
    again = (Requeue(wait.total_seconds()),)
    return Held(reconciling(reasons.AWAITING_WINDOW, text), again)
