"""Whatever is asked for in the middle of whatever else, no step goes too far, and it gets there.

The promises are checked against what is, not against what the planner has heard.
"""

from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pitcrew_operator.plan.rollout.analysis import Outcome, Verdict
from pitcrew_operator.plan.rollout.course import Course, Fault, Phase, Wish
from pitcrew_operator.plan.rollout.share import Share
from pitcrew_operator.plan.rollout.step import Budget
from tests.property.operator.replicas import Fleet

REVISIONS = ("a", "b", "c", "broken")
"""Pods of the last one never serve."""
DEADLINE = timedelta(seconds=100)
MINUTE = timedelta(minutes=1)
STEPS = st.sampled_from(
    [
        (),
        (Share(weight=25, hold=MINUTE),),
        (Share(replicas=1), Share(weight=50, hold=MINUTE)),
        (Share(weight=99), Share(replicas=3)),
    ]
)
BUDGETS = st.builds(
    Budget, st.integers(0, 6), surge=st.integers(0, 3), unavailable=st.integers(1, 3)
) | st.builds(Budget, st.integers(0, 6), surge=st.integers(1, 3), unavailable=st.just(0))
VERDICTS = st.sampled_from([None, *(Verdict(outcome) for outcome in Outcome)])
SOME = st.integers(0, 3)
LATE = st.dictionaries(
    st.sampled_from(REVISIONS), st.sampled_from(["act", "report", "hear"]), max_size=2
)


class Rollouts(RuleBasedStateMachine):
    """One deployment, its planner, and everybody else."""

    @initialize(budget=BUDGETS, steps=STEPS)
    def begin(self, budget: Budget, steps: tuple[Share, ...]) -> None:
        self.fleet = Fleet(Wish("a", budget, steps, deadline=DEADLINE))
        self.verdict: Verdict | None = None
        self.fatal: Fault | None = None

    # The planner.

    @rule(forgets=st.booleans(), writes=st.integers(0, 4))
    def plan(self, forgets: bool, writes: int) -> None:
        """One pass; it may end after any write, and before it is written what it remembers."""
        course = self._look()
        decided = self.fleet.decide(course)
        for name, wanted in list(decided.items())[:writes]:
            before = self._promises()
            if not self.fleet.write(name, wanted):
                break
            self._check(before)
        else:
            self.fleet.remove_empty(course)
            if not forgets:
                self.fleet.record = course.record

    def _look(self) -> Course:
        asked = self.fleet.wish.revision
        fatal = self.fatal if asked == "broken" else None
        return self.fleet.look({"verdict": self.verdict, "fatal": fatal})

    def _promises(self) -> tuple[int, int]:
        """What exists or may, and what serves and will, as far as anybody can know of it."""
        workloads = self.fleet.workloads.values()
        return sum(w.occupied for w in workloads), sum(w.told for w in workloads)

    def _check(self, before: tuple[int, int]) -> None:
        budget, workloads = self.fleet.wish.budget, self.fleet.workloads.values()
        crashed = sum(w.crashes for w in workloads)
        assert sum(w.occupied for w in workloads) <= max(budget.maximum, before[0])
        assert sum(w.serving for w in workloads) >= min(budget.minimum, before[1]) - crashed

    @rule(which=SOME)
    def watch_catches_up(self, which: int) -> None:
        names = sorted(self.fleet.workloads.keys() | self.fleet.view.keys())
        if names:
            self.fleet.hear(names[which % len(names)])

    @rule()
    def operator_restarts(self) -> None:
        self._hear_all()

    def _hear_all(self) -> None:
        for name in (*self.fleet.workloads, *tuple(self.fleet.view)):
            self.fleet.hear(name)

    # Controllers, pods, the clock.

    @precondition(lambda self: self.fleet.workloads)
    @rule(which=SOME, what=st.sampled_from(["act", "report", "start", "start", "crash"]))
    def something_happens(self, which: int, what: str) -> None:
        name = sorted(self.fleet.workloads)[which % len(self.fleet.workloads)]
        if what == "start" and name == "broken":
            return
        getattr(self.fleet, what)(name)

    @rule(seconds=st.integers(-60, 150) | st.integers(-7200, 7200))
    def clock_moves(self, seconds: int) -> None:
        self.fleet.pass_time(seconds)

    @rule(rounds=st.integers(1, 8), plans=st.integers(1, 3), late=LATE)
    def a_while(self, rounds: int, plans: int, late: dict[str, str]) -> None:
        """Deep states are rare by chance alone. Some revisions' controllers or watches are late."""
        for _ in range(rounds):
            self._round(plans, late)

    def _round(self, plans: int = 1, late: dict[str, str] | None = None) -> None:
        """Everybody does what is due."""
        for name in tuple(self.fleet.workloads):
            self._happen(name, (late or {}).get(name, "nothing"))
        for _ in range(plans):
            self.plan(forgets=False, writes=9)

    def _happen(self, name: str, late: str) -> None:
        if late != "act":
            self.fleet.act(name)
            for _ in range(9 if name != "broken" else 0):
                self.fleet.start(name)
        if late != "report":
            self.fleet.report(name)
        if late != "hear":
            self.fleet.hear(name)

    # Users.

    @rule(revisions=st.lists(st.sampled_from(REVISIONS), min_size=1, max_size=3), plans=SOME)
    def other_revisions_are_asked_for(self, revisions: list[str], plans: int) -> None:
        """One, or one upon the other before anything else has happened but that pods are made."""
        for revision in revisions:
            self._wish(revision=revision)
            self._plan_often(plans)

    @rule(budget=BUDGETS, plans=SOME)
    def user_or_autoscaler_changes_the_numbers(self, budget: Budget, plans: int) -> None:
        self._wish(budget=budget)
        self._plan_often(plans)

    def _plan_often(self, plans: int) -> None:
        for _ in range(plans):
            self.plan(forgets=False, writes=9)
        for name in self.fleet.workloads:
            self.fleet.act(name)

    @rule(steps=STEPS, paused=st.booleans())
    def user_changes_the_rollout(self, steps: tuple[Share, ...], paused: bool) -> None:
        self._wish(steps=steps, paused=paused)

    @rule(trigger=st.sampled_from(["", "again"]), rolls_back=st.booleans())
    def user_tries_again(self, trigger: str, rolls_back: bool) -> None:
        self._wish(trigger=trigger, rolls_back=rolls_back)

    @rule(verdict=VERDICTS, fatal=st.booleans())
    def something_is_found(self, verdict: Verdict | None, fatal: bool) -> None:
        self.verdict = verdict
        self.fatal = Fault("EngineCorrupt", "digest differs") if fatal else None

    def _wish(self, **changed: object) -> None:
        known = {name: getattr(self.fleet.wish, name) for name in Wish.__dataclass_fields__}
        self.fleet.wish = Wish(**{**known, **changed})

    # What must hold.

    @invariant()
    def what_failed_gets_no_replicas(self) -> None:
        course = self._look()
        failed = course.record.failed
        if failed is not None and course.record.stable is not None:
            assert failed.revision == self.fleet.wish.revision
            assert course.goals == {course.record.stable: self.fleet.wish.budget.replicas}

    @invariant()
    def looking_twice_is_looking_once(self) -> None:
        known, first = self.fleet.record, self._look()
        self.fleet.record = first.record
        assert self._look() == first
        self.fleet.record = known

    # In the end.

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        self.verdict, replicas = Verdict(Outcome.GOOD), self.fleet.wish.budget.replicas
        self._wish(paused=False, rolls_back=True)
        for _ in range(60):
            self._round()
            self.fleet.pass_time(61)
        self._assert_there(replicas)
        before = {name: w.version for name, w in self.fleet.workloads.items()}
        self._round()
        assert {name: w.version for name, w in self.fleet.workloads.items()} == before

    def _assert_there(self, replicas: int) -> None:
        course, asked = self._look(), self.fleet.wish.revision
        stable, alone = course.record.stable, course.record.stable in (None, asked)
        serving = {n: sum(w.pods) for n, w in self.fleet.workloads.items() if sum(w.pods)}
        if asked == "broken" and alone:
            assert serving == {}
        elif replicas == 0:
            assert serving == {}
            assert course.phase in (Phase.COMPLETE, Phase.PROGRESSING, Phase.ROLLED_BACK)
        elif course.phase is Phase.ROLLED_BACK:
            assert serving == {stable: replicas}
        else:
            assert course.phase is Phase.COMPLETE
            assert serving == {asked: replicas}
        assert asked != "broken" or alone or replicas == 0 or course.phase is Phase.ROLLED_BACK


Rollouts.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRollouts = Rollouts.TestCase
