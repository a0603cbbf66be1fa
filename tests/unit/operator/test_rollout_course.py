"""Where a rollout goes, as tables: what is asked for and seen → goals, phase and what is remembered."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pitcrew_operator.plan.rollout.analysis import Outcome, Verdict
from pitcrew_operator.plan.rollout.course import Course, Fault, Phase, Record, Sight, Wish, advance
from pitcrew_operator.plan.rollout.share import Share, split
from pitcrew_operator.plan.rollout.step import Budget, Count, step

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SURGE = Budget(4, surge=1, unavailable=0)
IN_PLACE = Budget(4, surge=0, unavailable=1)
CANARY = (Share(weight=25, hold=timedelta(seconds=60)), Share(weight=50))
TO_B = Wish("b", SURGE, deadline=timedelta(seconds=100))


def at(n: int, serving: int | None = None) -> Count:
    return Count(n, n, n if serving is None else serving)


def look(
    wish: Wish,
    record: Record | None,
    counts: dict[str, Count],
    seconds: int = 0,
    fatal: Fault | None = None,
    trouble: Fault | None = None,
    verdict: Verdict | None = None,
    watched: timedelta = timedelta.max,
) -> Course:
    now = NOW + timedelta(seconds=seconds)
    return advance(wish, record, Sight(counts, now, fatal, trouble, verdict, watched))


def begun(wish: Wish = TO_B) -> Record:
    """Four replicas of `a` serve, and `b` is asked for."""
    return look(wish, Record("a", stable="a"), {"a": at(4)}).record


STEPS: list[tuple[str, Budget, dict[str, Count], dict[str, int], dict[str, int]]] = [
    ("first", SURGE, {}, {"b": 4}, {"b": 4, "a": 0}),
    ("one more", SURGE, {"a": at(4)}, {"b": 4}, {"b": 1, "a": 4}),
    ("it starts", SURGE, {"a": at(4), "b": at(1, 0)}, {"b": 4}, {"b": 1, "a": 4}),
    ("it serves", SURGE, {"a": at(4), "b": at(1)}, {"b": 4}, {"b": 1, "a": 3}),
    ("one goes", SURGE, {"a": Count(3, 4, 4), "b": at(1)}, {"b": 4}, {"b": 1, "a": 3}),
    ("one is gone", SURGE, {"a": at(3), "b": at(1)}, {"b": 4}, {"b": 2, "a": 3}),
    ("old one idle", SURGE, {"a": at(4, 3), "b": at(1)}, {"b": 4}, {"b": 1, "a": 3}),
    ("in place", IN_PLACE, {"a": at(4)}, {"b": 4}, {"b": 0, "a": 3}),
    ("room in place", IN_PLACE, {"a": at(3)}, {"b": 4}, {"b": 1, "a": 3}),
    ("scaled down", Budget(1, 1, 0), {"a": at(4), "b": at(1)}, {"b": 1}, {"b": 1, "a": 0}),
    ("scaled up", Budget(6, 1, 0), {"a": at(3), "b": at(2)}, {"b": 6}, {"b": 4, "a": 3}),
    ("back", SURGE, {"a": at(3), "b": at(2, 1)}, {"a": 4}, {"b": 1, "a": 3}),
    ("unsettled", SURGE, {"a": at(3), "b": Count(1, 1, 1, settled=False)}, {"b": 4},
     {"b": 1, "a": 3}),
    ("highest goes", SURGE, {"a": Count(4, 4, 3, drops_idle_first=False), "b": at(1)}, {"b": 4},
     {"b": 1, "a": 4}),
    ("all are idle", SURGE, {"a": Count(2, 2, 0, drops_idle_first=False), "b": at(1)}, {"b": 4},
     {"b": 3, "a": 0}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "budget", "counts", "goals", "expected"), STEPS, ids=[s[0] for s in STEPS]
)
def test_steps(
    case: str,
    budget: Budget,
    counts: dict[str, Count],
    goals: dict[str, int],
    expected: dict[str, int],
) -> None:
    order = ["b", "a"] if "b" in goals else ["a", "b"]
    assert step(counts, goals, order, budget) == expected


def test_a_budget_that_lets_nothing_move_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing could ever move"):
        Budget(2, surge=0, unavailable=0)


@pytest.mark.parametrize(
    ("replicas", "share", "expected"),
    [
        (4, Share(weight=25), (1, 3)),
        (4, Share(weight=26), (2, 2)),
        (4, Share(weight=99), (3, 1)),
        (4, Share(replicas=9), (3, 1)),
        (1, Share(weight=50), (1, 1)),
        (0, Share(weight=50), (0, 0)),
    ],
)
def test_shares(replicas: int, share: Share, expected: tuple[int, int]) -> None:
    assert split(share, Budget(replicas, surge=1, unavailable=0)) == expected


def test_a_single_replica_gives_way_where_there_is_no_room_for_two() -> None:
    assert split(Share(weight=50), Budget(1, surge=0, unavailable=1)) == (1, 0)


def test_a_rollout_ends_when_the_new_revision_serves_alone() -> None:
    course = look(TO_B, begun(), {"a": at(1), "b": at(4)})
    assert (course.phase, course.goals) == (Phase.PROGRESSING, {"b": 4})
    assert course.record.stable == "a"
    course = look(TO_B, course.record, {"b": at(4)})
    assert (course.phase, course.record.stable) == (Phase.COMPLETE, "b")


def test_without_replicas_nothing_is_proven() -> None:
    none = replace(TO_B, budget=Budget(0, 1, 0))
    course = look(none, begun(none), {"a": at(0), "b": at(0)}, seconds=1000)
    assert (course.phase, course.record.stable) == (Phase.PROGRESSING, "a")
    grown = look(TO_B, course.record, {"a": at(0), "b": at(0)}, seconds=2000)
    assert grown.record.failed is None


def test_what_gets_on_is_given_more_time() -> None:
    record = look(TO_B, begun(), {"a": at(4), "b": at(1)}, seconds=99).record
    late = look(TO_B, record, {"a": at(3), "b": at(2, 1)}, seconds=198)
    assert late.phase is Phase.PROGRESSING
    assert late.wake == timedelta(seconds=1)
    over = look(TO_B, record, {"a": at(3), "b": at(2, 1)}, seconds=199)
    assert over.phase is Phase.ROLLING_BACK
    assert over.goals == {"a": 4}
    assert over.record.failed is not None
    assert over.record.failed.fault.reason == "ProgressDeadlineExceeded"
    there = look(TO_B, over.record, {"a": at(4), "b": at(0)}, seconds=300)
    assert there.phase is Phase.ROLLED_BACK


def test_the_reason_of_a_late_rollout_is_what_keeps_its_pods() -> None:
    image = Fault("ImagePullFailed", "no such tag")
    course = look(TO_B, begun(), {"a": at(4), "b": at(1, 0)}, seconds=101, trouble=image)
    assert course.record.failed is not None
    assert course.record.failed.fault == image


@pytest.mark.parametrize("rolls_back", [True, False])
def test_a_hopeless_start_is_given_up_at_once(rolls_back: bool) -> None:
    wish = replace(TO_B, rolls_back=rolls_back)
    fatal = Fault("CanaryMismatch", "other tokens")
    course = look(wish, begun(wish), {"a": at(4), "b": at(1, 0)}, fatal=fatal)
    assert course.phase is (Phase.ROLLING_BACK if rolls_back else Phase.PROGRESSING)


def test_what_failed_is_tried_again_only_where_something_else_is_asked_for() -> None:
    counts = {"a": at(4), "b": at(0)}
    failed = look(TO_B, begun(), counts, fatal=Fault("X", "y")).record
    assert look(TO_B, failed, counts, seconds=9999).phase is Phase.ROLLED_BACK
    again = look(replace(TO_B, trigger="again"), failed, counts)
    assert (again.phase, again.record.failed) == (Phase.PROGRESSING, None)
    other = look(replace(TO_B, revision="c"), failed, counts)
    assert (other.goals, other.record.failed) == ({"c": 4}, None)
    back = look(replace(TO_B, revision="a"), failed, counts)
    assert (back.phase, back.record.failed) == (Phase.COMPLETE, None)


def test_another_revision_in_the_middle_keeps_the_way_back() -> None:
    course = look(replace(TO_B, revision="c"), begun(), {"a": at(3), "b": at(1)})
    assert course.record.stable == "a"
    assert course.goals == {"c": 4}
    assert course.order == ("a", "c")


def test_a_way_back_that_is_lost_is_replaced_by_what_serves() -> None:
    course = look(TO_B, begun(), {"c": at(2), "d": at(1), "b": at(1)})
    assert course.record.stable == "c"
    nothing = look(TO_B, begun(), {"b": at(1, 0)}, seconds=1000)
    assert (nothing.record.stable, nothing.record.failed) == (None, None)
    assert nothing.goals == {"b": 4}


def test_pause_keeps_what_is_there_and_scales_the_stable_one() -> None:
    paused = replace(TO_B, paused=True, budget=Budget(6, 1, 0))
    course = look(paused, begun(), {"a": at(3), "b": at(1)}, seconds=500)
    assert (course.phase, course.goals) == (Phase.PAUSED, {"b": 1, "a": 5})
    resumed = look(TO_B, course.record, {"a": at(3), "b": at(1)}, seconds=5000)
    assert resumed.phase is Phase.PROGRESSING
    assert resumed.record.failed is None


def test_a_canary_takes_its_steps_in_turn() -> None:
    wish = replace(TO_B, steps=CANARY)
    course = look(wish, begun(wish), {"a": at(4)})
    assert (course.phase, course.goals) == (Phase.PROGRESSING, {"b": 1, "a": 3})
    course = look(wish, course.record, {"a": at(3), "b": at(1)}, seconds=10)
    assert (course.phase, course.wake) == (Phase.CANARY, timedelta(seconds=60))
    course = look(wish, course.record, {"a": at(3), "b": at(1)}, seconds=69)
    assert (course.phase, course.record.step) == (Phase.CANARY, 0)
    course = look(wish, course.record, {"a": at(3), "b": at(1)}, seconds=70)
    assert (course.phase, course.goals) == (Phase.PROGRESSING, {"b": 2, "a": 2})
    course = look(wish, course.record, {"a": at(2), "b": at(2)}, seconds=71)
    assert course.goals == {"b": 4}


@pytest.mark.parametrize(
    ("outcome", "phase"),
    [
        (Outcome.GOOD, Phase.PROGRESSING),
        (Outcome.BAD, Phase.ROLLING_BACK),
        (Outcome.UNKNOWN, Phase.CANARY),
    ],
)
def test_a_step_ends_as_it_is_judged(outcome: Outcome, phase: Phase) -> None:
    wish, counts = replace(TO_B, steps=CANARY), {"a": at(3), "b": at(1)}
    record = look(wish, begun(wish), counts).record
    course = look(wish, record, counts, seconds=60, verdict=Verdict(outcome, "because"))
    assert course.phase is phase


def test_a_canary_that_falls_gets_time_to_stand_up() -> None:
    wish = replace(TO_B, steps=CANARY)
    record = look(wish, begun(wish), {"a": at(3), "b": at(1)}, seconds=1).record
    fallen = look(wish, record, {"a": at(3), "b": at(1, 0)}, seconds=50)
    assert (fallen.phase, fallen.record.held) == (Phase.PROGRESSING, None)
    assert fallen.wake == timedelta(seconds=100)
    assert look(wish, fallen.record, {"a": at(3), "b": at(1, 0)}, seconds=150).record.failed


def test_a_canary_that_serves_for_moments_only_is_given_up() -> None:
    wish, course = replace(TO_B, steps=CANARY), look(replace(TO_B, steps=CANARY), begun(), {})
    for second in range(0, 600, 20):
        course = look(wish, course.record, {"a": at(3), "b": at(1)}, seconds=second)
        course = look(wish, course.record, {"a": at(3), "b": at(1, 0)}, seconds=second + 2)
        if course.record.failed is not None:
            break
    assert 100 < second < 200


def test_a_clock_that_was_set_back_puts_no_deadline_off() -> None:
    wish = replace(TO_B, steps=CANARY)
    waiting, serving = {"a": at(4), "b": at(1, 0)}, {"a": at(3), "b": at(1)}
    record = look(wish, replace(begun(wish), progressed=NOW + timedelta(hours=3)), waiting).record
    assert look(wish, record, waiting, seconds=101).record.failed is not None
    held = look(wish, replace(begun(wish), held=NOW + timedelta(hours=3)), serving)
    assert held.wake == timedelta(seconds=60)


def test_nobody_is_late_while_nobody_watched() -> None:
    waiting = {"a": at(4), "b": at(1, 0)}
    back = look(TO_B, begun(), waiting, seconds=3600, watched=timedelta(seconds=5))
    assert (back.phase, back.wake) == (Phase.PROGRESSING, timedelta(seconds=95))
    over = look(TO_B, back.record, waiting, seconds=3700, watched=timedelta(seconds=105))
    assert over.record.failed is not None


def test_what_was_scaled_down_in_between_is_progress_again() -> None:
    wide, narrow = replace(TO_B, budget=Budget(9, 1, 0)), replace(TO_B, budget=Budget(2, 1, 0))
    record = look(wide, begun(wide), {"a": at(4), "b": at(6)}, seconds=10).record
    record = look(narrow, record, {"a": at(1), "b": at(2)}, seconds=20).record
    grown = look(wide, record, {"a": at(1), "b": at(3)}, seconds=105)
    assert grown.record.progressed == NOW + timedelta(seconds=105)


def test_where_nothing_may_go_back_a_failure_is_told() -> None:
    wish = replace(TO_B, rolls_back=False, steps=CANARY)
    waiting = look(wish, begun(wish), {"a": at(3), "b": at(1, 0)}, seconds=60)
    assert (waiting.failing, waiting.wake) == (None, timedelta(seconds=40))
    late = look(wish, begun(wish), {"a": at(3), "b": at(1, 0)}, seconds=100)
    assert late.phase is Phase.PROGRESSING
    assert late.failing is not None
    assert "spec.rollout.progressDeadlineSeconds" in late.failing.message
    bad = Verdict(Outcome.BAD, "too slow")
    judged = look(wish, begun(wish), {"a": at(3), "b": at(1)}, verdict=bad)
    assert (judged.phase, judged.failing) == (Phase.CANARY, Fault(bad.reason, "too slow"))
