"""Lives of engines as versions, told step by step on a simulated cluster."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from pitcrew_builder.report import Phase as BuildPhase
from pitcrew_builder.report import Progress
from pitcrew_operator import reasons
from pitcrew_operator.kinds import CLAIM, ENGINE
from pitcrew_operator.reconcile import Key
from tests.property.operator.simulation import Object
from tests.property.operator.world import CHAT, HUB, TINY, TWIN, VOLUME, World, claim

OTHER_COMPILER = "pitcrew/builder:cuda14"
SAME_COMPILER = "pitcrew/builder:patched"


@pytest.fixture
def world() -> World:
    """Two engines of one spec and a deployment, all well."""
    world = World(HUB, limit=0)
    world.builder.toolchains[OTHER_COMPILER] = {"onnxruntime": "1.32.0", "cuda": "14"}
    go_on(world)
    assert world.condition(TINY, "UpToDate") == ("True", reasons.UP_TO_DATE)
    return world


def go_on(world: World, rounds: int = 6) -> None:
    """Everybody does what is due, until nothing is."""
    for _ in range(rounds):
        world.work_on()


def builds(world: World) -> list[str]:
    """Names of every build Job that there ever was."""
    return [name for name in world.cluster.created if name.startswith("Job/") and "-build-" in name]


def phases(world: World, key: Key = TINY) -> list[str]:
    return [version["phase"] for version in world.status(key)["versions"]]


def move_branch(world: World, digit: str = "1") -> None:
    """The branch moves, and the time comes to look."""
    world.builder.commit = digit * 40
    world.pass_time(2)


def begin_next(world: World, key: Key = TINY) -> Object:
    """The build of what the branch has moved to runs; its Job."""
    for _ in range(3):
        world.settle()
        for job in world.unfinished("resolve"):
            world.start(job)
            world.end(job, "success")
    (job,) = world.unfinished("build")
    world.start(job)
    world.settle()
    return job


def test_engines_of_one_identity_share_one_build(world: World) -> None:
    (name,) = builds(world)
    assert world.cluster.created[name] == 1
    assert world.status(TINY)["current"] == world.status(TWIN)["current"]
    (job,) = world.cluster.jobs("build")
    assert {owner["name"] for owner in job["metadata"]["ownerReferences"]} == {"tiny", "twin"}


def test_a_shared_build_outlives_the_engine_that_began_it() -> None:
    world = World(HUB, limit=0)
    job = begin_next(world)
    world.cluster.remove(ENGINE, "tiny")
    world.settle()
    world.end(job, "success")
    go_on(world)
    assert world.condition(TWIN, "Ready")[0] == "True"
    assert world.cluster.created[f"Job/{job['metadata']['name']}"] == 1


def test_an_operator_upgrade_builds_nothing_that_is_the_same(world: World) -> None:
    world.restart(SAME_COMPILER)
    world.settle()
    assert world.condition(TINY, "Ready") == ("True", reasons.ENGINE_READY)
    assert world.condition(TINY, "UpToDate") == ("Unknown", reasons.RESOLVING)
    go_on(world)
    assert world.condition(TINY, "UpToDate") == ("True", reasons.UP_TO_DATE)
    assert len(builds(world)) == 1


def test_another_compiler_builds_the_next_engine_while_the_last_one_serves(world: World) -> None:
    first = world.status(TINY)["current"]
    world.restart(OTHER_COMPILER)
    begin_next(world)
    assert world.condition(TINY, "Ready") == ("True", reasons.ENGINE_READY)
    assert world.condition(TINY, "UpToDate") == ("False", reasons.CUDA_DRIFT)
    assert world.status(TINY)["engine"]["id"] == first
    assert world.status(CHAT)["engine"]["id"] == first
    go_on(world)
    status = world.status(TINY)
    assert (status["current"] != first, status["previous"]) == (True, first)
    assert status["engine"]["cuda"] == "14"
    assert world.status(CHAT)["previousEngine"]["id"] == first


def test_a_branch_is_looked_at_once_an_interval(world: World) -> None:
    world.builder.commit = "1" * 40
    go_on(world)
    assert phases(world) == ["Ready"]
    world.pass_time(2)
    go_on(world)
    assert phases(world) == ["Ready", "Ready"]
    assert world.status(TINY)["engine"]["commit"] == "1" * 40


def test_a_revision_that_is_a_commit_is_never_looked_at_again() -> None:
    pinned = {"model": {"huggingFace": {"repo": "acme/tiny", "revision": "a" * 40}}}
    world = World(pinned, limit=0)
    go_on(world)
    looks = sum(count for name, count in world.cluster.created.items() if "-resolve-" in name)
    world.pass_time(600)
    go_on(world)
    assert looks == sum(n for name, n in world.cluster.created.items() if "-resolve-" in name)


def test_manual_waits_for_the_trigger(world: World) -> None:
    world.change_policy(TINY, mode="Manual")
    world.change_policy(TWIN, mode="Manual")
    move_branch(world)
    go_on(world)
    assert len(builds(world)) == 1
    assert world.condition(TINY, "Ready")[0] == "True"
    assert world.condition(TINY, "UpToDate") == ("False", reasons.AWAITING_TRIGGER)
    world.change_policy(TINY, trigger="now")
    go_on(world)
    assert world.condition(TINY, "UpToDate") == ("True", reasons.UP_TO_DATE)
    assert world.condition(TWIN, "UpToDate") == ("False", reasons.AWAITING_TRIGGER)


def test_a_window_waits_for_its_hours(world: World) -> None:
    for key in (TINY, TWIN):
        world.change_policy(key, mode="Window", window={"start": "22:00", "end": "02:00"})
    move_branch(world)
    go_on(world)
    assert len(builds(world)) == 1
    assert world.condition(TINY, "UpToDate") == ("False", reasons.REVISION_MOVED)
    world.pass_time(11 * 60)
    go_on(world)
    assert world.condition(TINY, "UpToDate") == ("True", reasons.UP_TO_DATE)


def test_what_the_author_changes_waits_for_no_policy(world: World) -> None:
    world.change_policy(TINY, mode="Manual")
    world.change(TINY, shapes={"maxBatchSize": 2})
    go_on(world)
    assert world.condition(TINY, "Ready")[0] == "True"
    assert len(builds(world)) == 2


def test_suspended_begins_nothing_and_keeps_what_serves(world: World) -> None:
    for key in (TINY, TWIN):
        world.change(key, suspend=True)
    world.change(TINY, shapes={"maxBatchSize": 2})
    go_on(world)
    assert len(builds(world)) == 1
    assert world.condition(TINY, "Stalled") == ("True", reasons.SUSPENDED)
    assert world.condition(TWIN, "Ready")[0] == "True"
    assert world.condition(CHAT, "Ready")[0] == "True"
    world.change(TINY, suspend=False)
    go_on(world)
    assert world.condition(TINY, "Ready")[0] == "True"


@pytest.mark.parametrize(("superseded", "stays"), [("Finish", True), ("Cancel", False)])
def test_a_build_that_the_branch_made_old(world: World, superseded: str, stays: bool) -> None:
    world.change(TWIN, suspend=True)
    world.change_policy(TINY, superseded=superseded)
    move_branch(world, "1")
    name = begin_next(world)["metadata"]["name"]
    move_branch(world, "2")
    for _ in range(3):
        world.settle()
        for look in world.unfinished("resolve"):
            world.start(look)
            world.end(look, "success")
    names = [job["metadata"]["name"] for job in world.unfinished("build")]
    assert (name in names) is stays
    assert len(names) == 1
    go_on(world)
    assert world.status(TINY)["engine"]["commit"] == "2" * 40


@pytest.mark.parametrize("how", ["success", "refusal"])
def test_a_branch_that_comes_back_is_served_all_the_while(world: World, how: str) -> None:
    first = world.status(TINY)["current"]
    world.change(TWIN, suspend=True)
    move_branch(world, "1")
    job = begin_next(world)
    served: list[str | None] = []
    world.cluster.listeners.append(
        lambda _, kind, raw: served.append(raw["status"].get("current")) if kind is ENGINE else None
    )
    move_branch(world, "0")
    for _ in range(3):
        world.settle()
        for look in world.unfinished("resolve"):
            world.start(look)
            world.end(look, "success")
    assert world.condition(TINY, "UpToDate") == ("True", reasons.UP_TO_DATE)
    world.end(job, how)
    go_on(world)
    assert {*served} == {first}
    assert "previous" not in world.status(TINY)
    assert phases(world) == ["Ready" if how == "success" else "Failed", "Ready"]
    move_branch(world, "1")
    go_on(world)
    assert len(builds(world)) == 2


def test_old_engines_leave_the_store_and_used_ones_stay(world: World) -> None:
    first = world.status(TINY)["current"]
    world.change(CHAT, engineRef={"name": "tiny", "version": first[:12]})
    for digit in "123":
        move_branch(world, digit)
        go_on(world)
    status = world.status(TINY)
    assert {status["current"], status["previous"], first} == {
        version["id"] for version in status["versions"]
    }
    assert first in world.engines
    assert world.status(CHAT)["engine"]["id"] == first
    world.change(CHAT, engineRef={"name": "tiny"})
    go_on(world, 12)
    assert world.engines == {status["current"], status["previous"]}
    assert phases(world) == phases(world, TWIN) == ["Ready", "Ready"]


def test_what_a_rollout_to_another_engine_may_go_back_to_stays(world: World) -> None:
    world.change(TINY, shapes={"maxBatchSize": 2})
    go_on(world, 12)
    first = world.status(TINY)["current"]
    world.change(CHAT, rollout={"paused": True}, engineRef={"name": "twin"})
    go_on(world)
    assert world.status(CHAT)["engine"]["id"] == first
    for digit in "123":
        move_branch(world, digit)
        go_on(world)
    assert first in world.engines
    world.change(CHAT, rollout={})
    go_on(world, 12)
    assert first not in world.engines


def test_more_is_kept_where_more_is_asked_for(world: World) -> None:
    for key in (TINY, TWIN):
        world.change(key, retention=4)
    for digit in "12345":
        move_branch(world, digit)
        go_on(world)
    assert phases(world) == ["Ready"] * 4
    assert len(world.engines) == 4


def test_a_spec_that_is_taken_back_finds_its_engine_again(world: World) -> None:
    first = world.status(TINY)["current"]
    world.change(TINY, shapes={"maxBatchSize": 2})
    go_on(world)
    second = world.status(TINY)["current"]
    world.change(TINY, shapes={"maxBatchSize": 32})
    go_on(world)
    assert (world.status(TINY)["current"], world.status(TINY)["previous"]) == (first, second)
    assert len(builds(world)) == 2


def test_what_fails_outside_of_the_spec_leaves_the_engine_ready(world: World) -> None:
    move_branch(world)
    world.end(begin_next(world), "refusal")
    world.settle()
    assert world.condition(TINY, "Ready") == ("True", reasons.ENGINE_READY)
    assert world.condition(TINY, "UpToDate") == ("False", "CheckpointCorrupt")
    events = [(event["type"], event["reason"]) for event in world.cluster.events]
    assert ("Warning", "CheckpointCorrupt") in events


def test_another_builder_tries_again_what_failed(world: World) -> None:
    move_branch(world)
    world.end(begin_next(world), "refusal")
    go_on(world)
    assert world.condition(TINY, "UpToDate")[0] == "False"
    world.restart(SAME_COMPILER)
    go_on(world)
    assert world.condition(TINY, "UpToDate") == ("True", reasons.UP_TO_DATE)


def test_what_does_not_fit_takes_no_gpu() -> None:
    world = World(HUB, limit=0)
    world.builder.misfit = "1 x H100 (80 GiB each) do not hold 131 GiB; nearest that fits: tensor 2"
    go_on(world)
    assert not builds(world)
    assert world.condition(TINY, "Stalled") == ("True", reasons.DOES_NOT_FIT)
    told = next(c for c in world.status(TINY)["conditions"] if c["type"] == "Stalled")
    assert "nearest that fits: tensor 2" in told["message"]


def test_a_checkpoint_that_is_taken_away_changes_nothing_that_is_built() -> None:
    world = World(VOLUME, limit=0)
    world.cluster.create(CLAIM, claim("checkpoints"))
    go_on(world)
    world.cluster.remove(CLAIM, "checkpoints")
    world.pass_time(10)
    go_on(world)
    assert world.condition(TINY, "Ready") == ("True", reasons.ENGINE_READY)
    assert world.condition(TINY, "UpToDate") == ("True", reasons.UP_TO_DATE)
    assert len(builds(world)) == 1


def test_builds_wait_in_line_and_the_oldest_is_next() -> None:
    world = World(HUB, limit=1)
    world.change(TWIN, shapes={"maxBatchSize": 2})
    first = begin_next(world)
    assert world.condition(TWIN, "Ready")[1] == reasons.QUEUED or (
        world.condition(TINY, "Ready")[1] == reasons.QUEUED
    )
    world.end(first, "success")
    world.settle()
    (second,) = world.unfinished("build")
    assert second["metadata"]["name"] != first["metadata"]["name"]
    go_on(world)
    assert world.condition(TINY, "Ready")[0] == world.condition(TWIN, "Ready")[0] == "True"


NOTHING: list[Callable[[World], None]] = [
    lambda world: world.list_everything(),
    lambda world: world.restart(),
    lambda world: world.pass_time(-600),
]


@pytest.mark.parametrize("happens", NOTHING)
def test_where_nothing_is_asked_nothing_is_written(
    world: World, happens: Callable[[World], None]
) -> None:
    for key in (TINY, TWIN):
        world.change_policy(key, pollSeconds=0)
    go_on(world)
    writes = world.cluster.writes
    happens(world)
    world.settle()
    assert world.cluster.writes == writes


def test_a_build_waits_for_the_removal_of_engines_from_its_store(world: World) -> None:
    move_branch(world, "1")
    go_on(world)
    move_branch(world, "2")
    world.end(begin_next(world), "success")
    world.settle()
    (removal,) = world.unfinished("collect")
    world.change(TINY, shapes={"maxBatchSize": 2})
    for _ in range(3):
        world.settle()
        for look in world.unfinished("resolve"):
            world.start(look)
            world.end(look, "success")
    assert not world.unfinished("build")
    assert world.condition(TINY, "Ready")[1] == reasons.WAITING_FOR_COLLECTION
    world.start(removal)
    world.end(removal, "success")
    go_on(world)
    assert world.condition(TINY, "Ready")[0] == "True"


def sizes(world: World, tiny: int, twin: int) -> None:
    """The two engines are asked for with these batch sizes, and what that takes is done."""
    world.change(TINY, shapes={"maxBatchSize": tiny})
    world.change(TWIN, shapes={"maxBatchSize": twin})
    go_on(world)


def in_store(world: World, key: Key) -> bool:
    status = world.status(key)
    return {status["current"], status["previous"]} - {None} <= world.engines


def test_an_engine_that_another_one_is_about_to_take_over_is_not_removed(world: World) -> None:
    sizes(world, 1, 8)
    sizes(world, 1, 2)
    # The twin lets the build of size 8 go in the pass in which the other one asks for it.
    sizes(world, 8, 1)
    assert in_store(world, TINY)
    assert in_store(world, TWIN)
    assert world.condition(TINY, "Ready")[0] == "True"


def test_the_job_of_an_engine_goes_before_the_engine_does(world: World) -> None:
    sizes(world, 1, 8)
    name = next(v["jobName"] for v in world.status(TWIN)["versions"] if v["phase"] == "Ready")
    sizes(world, 1, 2)
    world.change(TWIN, shapes={"maxBatchSize": 4})
    for _ in range(20):
        world.settle()
        if world.unfinished("collect"):
            break
        for job in world.unfinished("resolve", "build"):
            world.start(job)
            world.end(job, "success")
    else:
        pytest.fail("nothing was removed")
    assert name not in [job["metadata"]["name"] for job in world.cluster.jobs("build")]


def test_an_engine_that_both_have_retired_is_removed_once(world: World) -> None:
    for size in (8, 2, 4):
        sizes(world, size, size)
    go_on(world, 12)
    created = world.cluster.created.items()
    assert [times for name, times in created if name.startswith("Job/twin-collect-")] == [1, 1]
    assert not any(name.startswith("Job/tiny-collect-") for name, _ in created)
    assert phases(world, TINY) == phases(world, TWIN) == ["Ready", "Ready"]
    assert len(world.engines) == 2


def test_an_operator_that_is_behind_overwrites_nothing(world: World) -> None:
    world.change_policy(TWIN, pollSeconds=0)
    for size in (2, 4):
        world.change(TWIN, shapes={"maxBatchSize": size})
        go_on(world)
    move_branch(world, "1")
    go_on(world)
    move_branch(world, "2")
    job = begin_next(world)
    (pod,) = world.going(job)
    world.hand_over()
    world.end(job, "success")
    world.settle()
    for removal in world.unfinished("collect"):
        world.start(removal)
        world.end(removal, "success")
    proven = world.status(TINY)["current"]
    world.hand_over()
    progress = Progress(phase=BuildPhase.SERIALIZE, percent=62)
    world.cluster.logs[pod["metadata"]["name"]] = progress.model_dump_json(by_alias=True)
    world.now += timedelta(seconds=5)
    world.reconcile(TINY)
    assert world.status(TINY)["current"] == proven
    assert in_store(world, TINY)
    world.reconcile(TINY)
    assert TINY not in world.dirty, "it has read what is newest, whatever its watches tell"
