"""What has no room is told in figures before anything is taken."""

from dataclasses import replace

import pytest

from pitcrew_operator.gpus import Driver, GpuPool
from pitcrew_operator.order import Order
from pitcrew_operator.plan.preflight import misfit
from pitcrew_operator.views import Claim, claim_of
from tests.unit.operator.factories import CONFIG, answer, engine, meta

POOL = GpuPool("NVIDIA-L4", "sm89", Driver(580, (13, 0)), 24 << 30, 4, {})
NEEDED = answer().prediction.build_disk_bytes


def order(capacity: int | None = None, pool: GpuPool | None = None) -> Order:
    return Order(engine(), CONFIG, Claim("pitcrew-engines", "u", capacity), pool=pool)


@pytest.mark.parametrize("capacity", [None, NEEDED])
def test_what_has_room_is_no_misfit(capacity: int | None) -> None:
    assert misfit(order(capacity), answer()) is None


def test_a_claim_that_is_too_small_is_told_with_both_figures() -> None:
    told = misfit(order(NEEDED - 1), answer(prediction=_prediction(3 << 30)))
    assert told is not None
    assert "needs 3.00 GiB" in told
    assert "pitcrew-engines" in told
    assert "enlarge it" in told


def _prediction(build_disk: int) -> dict[str, int]:
    known = answer().prediction.model_dump()
    return {**known, "build_ram_bytes": 1, "build_seconds": 1, "build_disk_bytes": build_disk}


def test_more_ranks_than_gpus_are_told_with_both_numbers() -> None:
    assert misfit(order(pool=POOL), answer(worldSize=4)) is None
    told = misfit(order(pool=POOL), answer(worldSize=8))
    assert told is not None
    assert "8 ranks" in told
    assert "4 x NVIDIA-L4" in told


def test_what_the_planner_says_is_passed_on() -> None:
    assert misfit(order(), answer(misfit="80 GiB do not hold 131 GiB")) == (
        "80 GiB do not hold 131 GiB"
    )


def test_nodes_that_tell_nothing_speak_against_nothing() -> None:
    assert misfit(replace(order(), pool=None), answer(worldSize=64)) is None


@pytest.mark.parametrize(("storage", "size"), [("20Gi", 20 << 30), ("1500M", 1_500_000_000)])
def test_a_claims_capacity_is_read(storage: str, size: int) -> None:
    raw = {"metadata": meta("c"), "status": {"capacity": {"storage": storage}}}
    assert claim_of(raw).capacity == size
    assert claim_of({"metadata": meta("c")}).capacity is None
