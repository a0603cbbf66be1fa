"""One pass over the replicas of an LLMDeployment: where its rollout stands, and what it does next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pitcrew_operator.api.rollout import GoldenPrompts
from pitcrew_operator.kinds import SERVICE
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL, REVISION_LABEL, url_host
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.manifests.service import cluster_url
from pitcrew_operator.manifests.serving_pod import PORT
from pitcrew_operator.plan.actions import Action, Ask, Requeue
from pitcrew_operator.plan.conditions import Health, Situation
from pitcrew_operator.plan.memory import recall
from pitcrew_operator.plan.pods import last_report, newest, refused, was_lost, why_not_running
from pitcrew_operator.plan.questions import (
    Answer,
    ComparePods,
    KeyPlace,
    Proven,
    ProveService,
)
from pitcrew_operator.plan.replicas import Fleet, change
from pitcrew_operator.plan.rollout.analysis import Evidence, Verdict, judge
from pitcrew_operator.plan.rollout.course import Course, Fault, Phase, Sight, advance
from pitcrew_operator.plan.rollout.step import step
from pitcrew_operator.plan.seen import DeploymentSeen
from pitcrew_operator.plan.wish import bounds_of, wish_of
from pitcrew_operator.views import Deployment, Pod

_HOPELESS_RESTARTS: Final = 3
_ASK_AGAIN: Final = 5.0
_LONGEST_PATIENCE: Final = 60.0


@dataclass(frozen=True)
class Rolling:
    """The rollout after this pass."""

    course: Course
    moves: tuple[Action, ...]
    """Changes of workloads."""
    questions: tuple[Action, ...]
    trouble: Situation | None
    """What keeps pods of the target from running."""
    proof: Proven | None
    """Whether the target was reached through the Service; None where that is not known (yet)."""


def roll(
    owner: Deployment, target: Revision, fleet: Fleet, seen: DeploymentSeen, now: datetime
) -> Rolling:
    """Take the next step of the rollout to the target."""
    own = [p for p in newest(seen.pods) if p.meta.labels.get(REVISION_LABEL) == target.hash]
    trouble = trouble_of(own, target.engine.claim_name) or _refusal(fleet, target)
    comparison = _comparison(owner, target, seen.pods)
    sight = Sight(
        fleet.counts,
        now,
        fatal=_fatal(own, trouble),
        trouble=Fault(trouble.reason, trouble.message) if trouble else None,
        verdict=_verdict(owner, comparison, seen.answers),
        watched=seen.watched,
    )
    wish = wish_of(owner, target.hash)
    course = advance(wish, recall(owner.status.rollout), sight)
    order = [*course.order, *sorted(fleet.counts.keys() - set(course.order))]
    decided = step(fleet.counts, course.goals, order, wish.budget)
    proof = _proof(owner, target, seen)
    return Rolling(
        course,
        tuple(change(fleet, target, decided, keep=course.record.stable)),
        tuple(_questions(owner, course, comparison, proof, seen.answers)),
        trouble,
        _proven(owner, target, proof, seen),
    )


def trouble_of(pods: Sequence[Pod], store: str | None) -> Situation | None:
    """Why pods do not run, the youngest's reason first; None where they do or take their time."""
    here = [pod for pod in pods if pod.lost is None]
    for pod in here:
        problem = why_not_running(pod, store)
        if problem is not None:
            return problem
    report = last_report(here)
    if report is None:
        # What was lost before the youngest pod came has its successor.
        return was_lost(pods[0]) if pods else None
    reason, message, final = report
    health = Health.STALLED if final else Health.RECONCILING
    return Situation(health, reason, message, is_trouble=True)


def _refusal(fleet: Fleet, target: Revision) -> Situation | None:
    workload = fleet.of_revision(target.hash)
    if workload is None or workload.refused is None:
        return None
    return refused("spec.runtime", workload.refused)


def _fatal(pods: Sequence[Pod], trouble: Situation | None) -> Fault | None:
    """A start that was refused for good, or that failed again and again."""
    if trouble is None:
        return None
    here = [pod for pod in pods if pod.lost is None]
    hopeless = any(pod.restarts >= _HOPELESS_RESTARTS and not pod.ready for pod in here)
    if trouble.health is Health.STALLED or hopeless:
        return Fault(trouble.reason, trouble.message)
    return None


def _comparison(owner: Deployment, target: Revision, pods: Sequence[Pod]) -> ComparePods | None:
    """What to ask the pods of both revisions; None where no analysis is asked for."""
    canary = owner.spec.rollout.canary
    record = recall(owner.status.rollout)
    if canary is None or canary.analysis is None or record is None or record.stable is None:
        return None
    golden = canary.analysis.golden
    stable = _addresses(pods, record.stable)
    return ComparePods(
        canary=_addresses(pods, target.hash),
        stable=stable,
        revisions=(target.hash, record.stable),
        prompts=golden.prompts if golden and stable else (),
        max_tokens=golden.max_tokens if golden else 0,
        api_key=_key_place(owner.meta.namespace, golden) if golden else None,
    )


def _key_place(namespace: str, golden: GoldenPrompts) -> KeyPlace | None:
    found = golden.key_secret_ref
    return KeyPlace(namespace, found.name, found.key) if found else None


def _addresses(pods: Sequence[Pod], revision: str) -> tuple[str, ...]:
    """Of the pods that answer requests; others of a group only hold ranks."""
    answering = (p for p in pods if DEPLOYMENT_LABEL in p.meta.labels and p.ready)
    own = (p for p in answering if p.meta.labels.get(REVISION_LABEL) == revision)
    return tuple(sorted(f"http://{url_host(p.ip)}:{PORT}" for p in own if p.ip))


def _verdict(
    owner: Deployment, comparison: ComparePods | None, answers: Mapping[str, Answer]
) -> Verdict | None:
    canary = owner.spec.rollout.canary
    if comparison is None or canary is None or canary.analysis is None:
        return None
    bounds = bounds_of(canary.analysis)
    bounds = bounds if comparison.stable else bounds.alone()
    found = answers.get(comparison.subject)
    return judge(bounds, found if isinstance(found, Evidence) else None)


def _proof(owner: Deployment, target: Revision, seen: DeploymentSeen) -> ProveService | None:
    service = seen.beside.objects.get((SERVICE, owner.meta.name))
    url = cluster_url(owner, service) if seen.proves_service else None
    return ProveService(url, target.hash, target.engine.id) if url else None


def _proven(
    owner: Deployment,
    target: Revision,
    proof: ProveService | None,
    seen: DeploymentSeen,
) -> Proven | None:
    """A revision that has answered once is not asked again."""
    known = owner.status.rollout
    if not seen.proves_service or (known is not None and known.answered == target.hash):
        return Proven(None)
    found = seen.answers.get(proof.subject) if proof else None
    return found if isinstance(found, Proven) else None


def _questions(
    owner: Deployment,
    course: Course,
    comparison: ComparePods | None,
    proof: ProveService | None,
    answers: Mapping[str, Answer],
) -> list[Action]:
    asked: list[Action] = []
    if course.phase is Phase.CANARY and comparison is not None:
        asked = [Ask(owner.kind, owner.meta, comparison), Requeue(_ASK_AGAIN)]
    elif course.phase is Phase.COMPLETE and proof is not None and any(course.goals.values()):
        known = owner.status.rollout
        found = answers.get(proof.subject)
        tries = found.tries if isinstance(found, Proven) else 0
        answered = isinstance(found, Proven) and found.problem is None
        if not answered and (known is None or known.answered != proof.revision):
            patience = min(_LONGEST_PATIENCE, 2.0**tries)
            asked = [Ask(owner.kind, owner.meta, proof), Requeue(patience)]
    if course.wake is not None:
        asked.append(Requeue(max(1.0, course.wake.total_seconds())))
    return asked
