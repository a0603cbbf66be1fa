"""Where a rollout stands, and which revision should have how many replicas.

A rollout leads from the stable revision, the last one that served alone, to the one that is asked
for: through the steps of a canary where there are any, then all the way. It turns back by itself
where the new revision cannot run, does not get on in time, or is judged worse; what failed is
remembered and not tried again before something else is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from pitcrew_operator.plan.rollout.analysis import Outcome, Verdict
from pitcrew_operator.plan.rollout.share import Share, split
from pitcrew_operator.plan.rollout.step import Budget, Count

PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"


class Phase(StrEnum):
    """Where a rollout stands."""

    PROGRESSING = "Progressing"
    CANARY = "Canary"
    PAUSED = "Paused"
    COMPLETE = "Complete"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"


@dataclass(frozen=True)
class Fault:
    """What is wrong: one word for programs, one sentence for people."""

    reason: str
    message: str


@dataclass(frozen=True)
class Failure:
    """A revision that was given up."""

    revision: str
    fault: Fault
    at: datetime
    trigger: str
    """What `Wish.trigger` was."""


@dataclass(frozen=True)
class Record:
    """What has to be remembered from one look to the next."""

    revision: str
    """That was asked for."""
    stable: str | None = None
    """That served alone last."""
    step: int = 0
    """Of the canary, counted from 0."""
    progressed: datetime | None = None
    """When it got on last; None while nobody counts."""
    held: datetime | None = None
    """Since when the replicas of the canary's step have served."""
    available: int = 0
    """Most replicas of the revision that have served at a time."""
    failed: Failure | None = None


@dataclass(frozen=True)
class Wish:
    """What is asked for."""

    revision: str
    budget: Budget
    steps: tuple[Share, ...] = ()
    paused: bool = False
    trigger: str = ""
    """Another text gives a revision that failed another chance."""
    deadline: timedelta = timedelta(minutes=10)
    """Without any progress."""
    rolls_back: bool = True


@dataclass(frozen=True)
class Sight:
    """What there is to see."""

    counts: Mapping[str, Count]
    now: datetime
    fatal: Fault | None = None
    """Why replicas of the new revision never will run."""
    trouble: Fault | None = None
    """Why they do not run yet."""
    verdict: Verdict | None = None
    """On the canary; None where nobody judges."""
    watched: timedelta = timedelta.max
    """For how long somebody has looked after it without a break: nobody is late while nobody was there
    to let it go on."""

    def serving(self, revision: str) -> int:
        """Replicas of a revision that serve."""
        return self.counts[revision].serving if revision in self.counts else 0

    def is_alone(self, revision: str, replicas: int) -> bool:
        """Whether it has exactly so many replicas, all of them serve, and no other has any."""
        own = self.counts.get(revision)
        if own is None or not own.settled:
            return False
        others = (count for name, count in self.counts.items() if name != revision)
        return {own.wanted, own.present, own.available} == {replicas} and all(
            count.occupied == 0 for count in others
        )


@dataclass(frozen=True)
class Course:
    """Where it stands, and where to go from there."""

    phase: Phase
    record: Record
    goals: Mapping[str, int] = field(default_factory=dict)
    """Replicas by revision; the others should have none."""
    note: str = ""
    """What a canary waits for."""
    failing: Fault | None = None
    """Why it would turn back, if it were allowed to."""
    wake: timedelta | None = None
    """When time alone may change something."""

    @property
    def order(self) -> tuple[str, ...]:
        """The revision to weaken last first."""
        first = (self.record.stable, self.record.revision)
        return tuple(dict.fromkeys(name for name in first if name is not None))


def advance(wish: Wish, before: Record | None, sight: Sight) -> Course:
    """The course from here. Asked again with what it recorded, it goes on from there."""
    record = _settled(wish, _recorded(wish, before, sight), sight)
    replicas = wish.budget.replicas
    if record.failed is not None and record.stable is not None:
        return _back(record, record.stable, replicas, sight)
    if record.stable in (None, wish.revision):
        return _straight(record, replicas, sight)
    if wish.paused or replicas == 0:
        phase = Phase.PAUSED if wish.paused else Phase.PROGRESSING
        resting = replace(record, progressed=None, held=None)
        return Course(phase, resting, frozen(record, sight.counts, replicas))
    return _forward(wish, replace(record, progressed=record.progressed or sight.now), sight)


def frozen(record: Record, counts: Mapping[str, Count], replicas: int) -> dict[str, int]:
    """The new revision keeps what it has; the stable one has the rest."""
    if record.stable is None or record.stable == record.revision:
        return {record.revision: replicas}
    own = counts[record.revision].wanted if record.revision in counts else 0
    kept = min(own, replicas)
    return {record.revision: kept, record.stable: replicas - kept}


def _recorded(wish: Wish, before: Record | None, sight: Sight) -> Record:
    """The record of this wish: another revision, or another trigger, begins anew."""
    stable = before.stable if before is not None else None
    if stable not in sight.counts:
        stable = _likeliest(wish, sight)
    if before is None or before.revision != wish.revision:
        return Record(wish.revision, stable, progressed=sight.now)
    failed = before.failed
    if failed is not None and (failed.trigger != wish.trigger or stable is None):
        return Record(wish.revision, stable, progressed=sight.now)
    return _plausible(replace(before, stable=stable), wish, sight)


def _plausible(record: Record, wish: Wish, sight: Sight) -> Record:
    """The record by today's clock and numbers: a clock may have been set back, and replicas that were
    scaled away have to start again.
    """
    return replace(
        record,
        progressed=record.progressed and min(record.progressed, sight.now),
        held=record.held and min(record.held, sight.now),
        available=min(record.available, wish.budget.replicas),
    )


def _likeliest(wish: Wish, sight: Sight) -> str | None:
    """The stable revision where none is on record: another one that serves, the strongest."""
    others = {
        name: count.serving
        for name, count in sight.counts.items()
        if name != wish.revision and count.serving > 0
    }
    return max(sorted(others), key=others.__getitem__) if others else None


def _settled(wish: Wish, record: Record, sight: Sight) -> Record:
    """A revision that serves alone is the stable one. Nothing is proven by no replicas at all."""
    replicas = wish.budget.replicas
    if replicas > 0 and sight.is_alone(wish.revision, replicas) and not record.failed:
        return Record(wish.revision, stable=wish.revision, available=record.available)
    return record


def _back(record: Record, stable: str, replicas: int, sight: Sight) -> Course:
    there = sight.is_alone(stable, replicas)
    phase = Phase.ROLLED_BACK if there else Phase.ROLLING_BACK
    return Course(phase, record, {stable: replicas})


def _straight(record: Record, replicas: int, sight: Sight) -> Course:
    """There is nothing to go back to, or nowhere else to go."""
    there = sight.is_alone(record.revision, replicas)
    return Course(
        Phase.COMPLETE if there else Phase.PROGRESSING,
        replace(record, progressed=None, held=None, step=0),
        {record.revision: replicas},
    )


def _forward(wish: Wish, record: Record, sight: Sight) -> Course:
    serving = sight.serving(wish.revision)
    if serving > record.available:
        record = replace(record, available=serving, progressed=sight.now)
    if sight.fatal is not None and wish.rolls_back:
        return _fail(wish, record, sight.fatal, sight)
    if record.step < len(wish.steps):
        return _canary(wish, record, sight)
    goals = {wish.revision: wish.budget.replicas}
    return _in_time(wish, record, sight, goals)


def _canary(wish: Wish, record: Record, sight: Sight) -> Course:
    share = wish.steps[record.step]
    canary, rest = split(share, wish.budget)
    assert record.stable is not None, "a canary is held against a stable revision"
    goals = {wish.revision: canary, record.stable: rest}
    if sight.serving(wish.revision) < canary or canary == 0:
        return _in_time(wish, _fallen(record, sight.now), sight, goals)
    record = replace(record, held=record.held or sight.now)
    assert record.held is not None
    verdict = sight.verdict or Verdict(Outcome.GOOD)
    if verdict.outcome is Outcome.BAD:
        fault = Fault(verdict.reason, verdict.message)
        if wish.rolls_back:
            return _fail(wish, record, fault, sight)
        return Course(Phase.CANARY, record, goals, verdict.message, failing=fault)
    left = record.held + share.hold - sight.now
    if left <= timedelta() and verdict.outcome is Outcome.GOOD:
        onward = replace(record, step=record.step + 1, held=None, progressed=sight.now)
        return _forward(wish, onward, replace(sight, verdict=None))
    wake = left if left > timedelta() else None
    return Course(Phase.CANARY, record, goals, verdict.message, wake=wake)


def _fallen(record: Record, now: datetime) -> Record:
    """A step whose replicas do not serve, or not any more. While they served no time was lost, and as
    much is won back; so one that falls after hours has all its time again, and one that serves for
    moments only comes to its end.
    """
    if record.held is None:
        return record
    assert record.progressed is not None, "it was set on the way to the step"
    won = record.progressed + 2 * (now - record.held)
    return replace(record, held=None, progressed=min(now, won))


def _in_time(wish: Wish, record: Record, sight: Sight, goals: Mapping[str, int]) -> Course:
    """On the way, for as long as it gets on."""
    assert record.progressed is not None
    left = wish.deadline - min(sight.now - record.progressed, sight.watched)
    if left > timedelta():
        return Course(Phase.PROGRESSING, record, goals, wake=left)
    fault = sight.trouble or _late(wish)
    if wish.rolls_back:
        return _fail(wish, record, fault, sight)
    return Course(Phase.PROGRESSING, record, goals, failing=fault)


def _late(wish: Wish) -> Fault:
    seconds = int(wish.deadline.total_seconds())
    return Fault(
        PROGRESS_DEADLINE_EXCEEDED,
        f"no further replica served within {seconds} s; correct what keeps it, or raise "
        "spec.rollout.progressDeadlineSeconds",
    )


def _fail(wish: Wish, record: Record, fault: Fault, sight: Sight) -> Course:
    failure = Failure(wish.revision, fault, sight.now, wish.trigger)
    given_up = replace(record, failed=failure, progressed=None, held=None, step=0)
    assert record.stable is not None, "without a stable revision nothing is given up"
    return _back(given_up, record.stable, wish.budget.replicas, sight)
