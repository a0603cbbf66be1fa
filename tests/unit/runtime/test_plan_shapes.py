"""What is arithmetic about running a plan on a GPU: shapes, the arena of inputs, graphs kept, fits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_builder.manifest import MANIFEST_NAME, Manifest, PlanProfile, PlanReport
from pitcrew_builder.spec import ComputeCapability, Lora, Target, TensorRtPlan
from pitcrew_builder.targets.trt.gpu import compute_capability
from pitcrew_runtime.assembly import Tuning, limits_for
from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.request import GREEDY
from pitcrew_runtime.drafting import Method, Speculation
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.errors import EngineIncompatible, InvalidOption
from pitcrew_runtime.execution.gpu.arena import NOWHERE, SLOTS, Arena, layout
from pitcrew_runtime.execution.gpu.graphs import GraphCache
from pitcrew_runtime.execution.gpu.kernels import tokens_of
from pitcrew_runtime.execution.gpu.opening import open_plan
from pitcrew_runtime.execution.gpu.plan import check_fits
from pitcrew_runtime.execution.gpu.shapes import (
    STEP,
    Bounds,
    Capacity,
    Shape,
    bounds_of,
    doubled,
    nobodys,
    shape_of,
    stepped,
    usual_shapes,
)
from pitcrew_runtime.execution.grouping import group
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.packing import pack, with_block_tables
from tests.unit.runtime.test_server import manifest as echo_manifest

PAGE = 4
BOUNDS = Bounds(batch=6, new=32, blocks=12, wanted=5)


def row(start: int, count: int, drafts: int = 0) -> Row:
    """Its pages are 7, 8, 9, ..."""
    pages = list(range(7, 7 + -(-(start + count) // PAGE)))
    return Row(0, [3] * count, start, pages, GREEDY, drafts=drafts)


def test_sizes_are_rounded_up_within_bounds() -> None:
    assert [doubled(n, 6) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    assert doubled(0, 6) == 1
    assert [stepped(n, 36) for n in (1, 2, 7, 8, 9, 10, 11, 17, 33, 36)] == [
        1, 2, 7, 8, 10, 10, 12, 20, 36, 36,
    ]  # fmt: skip


@given(st.integers(1, 100_000))
def test_a_quarter_is_added_at_most(count: int) -> None:
    assert count <= stepped(count, 1 << 20) <= STEP * count


def test_runs_have_few_shapes() -> None:
    decoding = pack([row(9, 1), row(40, 1), row(0, 1)], PAGE)
    assert shape_of(decoding, PAGE, BOUNDS) == Shape(4, 1, 12, 1)
    fresh = pack([row(0, 5), row(0, 6)], PAGE)
    assert shape_of(fresh, PAGE, BOUNDS) == Shape(2, 6, 0, 1)
    checking = pack([row(9, 4, drafts=3)], PAGE)
    assert shape_of(checking, PAGE, BOUNDS) == Shape(1, 4, 4, 4)
    long = pack([row(0, 31)], PAGE)
    assert shape_of(long, PAGE, BOUNDS) == Shape(1, 32, 0, 1)


def test_usual_shapes_are_met_before_they_are_asked_for() -> None:
    limits = Limits(5, 20, 1, 48, PAGE)
    shapes = usual_shapes(limits, BOUNDS)
    decoding = {(batch, blocks) for batch, new, blocks, _ in shapes if new == 1}
    assert decoding == {(b, p) for b in (1, 2, 4, 6) for p in (1, 2, 4, 8, 12)}
    assert [new for _, new, _, _ in shapes if new > 1] == [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    for shape in shapes:
        packed = nobodys(shape, PAGE)
        assert shape_of(packed, PAGE, BOUNDS) == shape
        arena = np.zeros(layout(shape)[1] // 8, np.int64)
        Arena(arena, PAGE).fill(packed, shape)
        place = layout(shape)[0][SLOTS]
        assert (arena[place.offset // 8 :][: place.shape[0]] == NOWHERE).all()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), min_size=1, max_size=6))
def test_the_arena_has_every_row_as_it_was_packed_and_nothing_of_the_run_before(
    rows: list[tuple[int, int]],
) -> None:
    for places in group([row(*one) for one in rows]):
        packed = pack([row(*rows[place]) for place in places], PAGE)
        shape = shape_of(packed, PAGE, BOUNDS)
        places_of, nbytes = layout(shape)
        arena = np.full(nbytes // 8 + 3, -77, np.int64)
        Arena(arena, PAGE).fill(packed, shape)
        assert (arena[nbytes // 8 :] == -77).all()
        views = {
            name: arena[place.offset // 8 :][: int(np.prod(place.shape))].reshape(place.shape)
            for name, place in places_of.items()
        }
        batch = len(places)
        for name, given_ in with_block_tables(packed, PAGE).inputs.items():
            if name in shape.inputs:
                own = tuple(slice(size) for size in given_.shape)
                assert (views[name][own] == given_).all(), name
                assert not views[name][batch:].any()
        assert not views["block_tables"][:batch, : shape.blocks][
            np.arange(shape.blocks) >= -(-packed.inputs["context_lengths"] // PAGE)[:, None]
        ].any()
        stored = views[SLOTS] != NOWHERE
        assert views[SLOTS][stored].tolist() == packed.slots.tolist()
        ours = stored.reshape(shape.batch, shape.new)[:batch, : packed.inputs["input_ids"].shape[1]]
        assert np.flatnonzero(ours).tolist() == packed.take.tolist()
        assert ours.sum() == stored.sum()


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(0, 4),
    st.integers(1, 60),
)
def test_every_run_of_a_step_within_the_limits_fits(
    lengths: list[int], lookahead: int, spare: int
) -> None:
    bounds = Bounds(batch=8, new=64, blocks=12, wanted=5)
    limits = Limits(8, max(9, sum(lengths) + spare), 1, 48, PAGE, lookahead=lookahead)
    capacity = Capacity.of(limits, bounds)
    # A draft engine computes a token more of each.
    rows = [row(3, count + 1 + lookahead, drafts=lookahead) for count in lengths]
    for places in group(rows):
        shape = shape_of(pack([rows[place] for place in places], PAGE), PAGE, bounds)
        capacity.check(shape)
        assert layout(shape)[1] <= capacity.arena
    with pytest.raises(ValueError, match="needs more than"):
        capacity.check(Shape(8, capacity.tokens, 1, 1))


def test_the_graphs_used_last_are_kept() -> None:
    dropped: list[str] = []
    cache: GraphCache[str] = GraphCache(dropped.append, most=2)
    one, two, three = (Shape(size, 1, 1, 1) for size in (1, 2, 4))
    cache.put(one, "one")
    cache.put(two, "two")
    assert cache.get(one) == "one"
    cache.put(three, "three")
    assert dropped == ["two"]
    assert (cache.get(two), cache.get(three)) == (None, "three")
    cache.clear()
    assert sorted(dropped) == ["one", "three", "two"]


def key(value: float, token: int) -> int:
    """As the kernel makes it."""
    bits = int(np.float32(value).view(np.uint32))
    order = bits ^ 0xFFFFFFFF if bits >> 31 else bits | 0x80000000
    return (0xFFFFFFFF if np.isnan(value) else order) << 32 | (0xFFFFFFFF - token)


def test_a_token_is_read_from_its_number_and_none_where_the_logit_is_not_finite() -> None:
    values = [1.5, -3.0e38, 0.0, np.inf, -np.inf, np.nan]
    numbers = np.array([key(value, 128_255) for value in values], np.uint64)
    assert tokens_of(numbers).tolist() == [128_255] * 3 + [-1] * 3
    assert key(2.0, 5) > key(2.0, 6) > key(-1.0, 0) > key(-2.0, 0)


def planned(chunk: int = 32, **identity: object) -> Manifest:
    """The manifest of a plan for sm90, batch 4, sequences of 64 tokens, pages of 4."""
    shapes = {
        "input_ids": ((1, 1), (1, chunk), (4, chunk)),
        "block_tables": ((1, 0), (1, 4), (4, 16)),
        "logit_indices": ((1, 1), (1, 1), (4, 5)),
    }
    report = PlanReport(profiles=(PlanProfile(name="prefill", shapes=shapes),), blocks=())
    plain = echo_manifest()
    changed = plain.identity.model_copy(
        update={
            "target": Target.TENSORRT,
            "toolchain": {"tensorrt": "10.15.1.29"},
            "tensorrt": TensorRtPlan(compute_capability=ComputeCapability.SM90),
            **identity,
        }
    )
    ranks = (plain.ranks[0].model_copy(update={"plan": report}),)
    return plain.model_copy(update={"identity": changed, "ranks": ranks})


def test_bounds_are_those_of_the_profiles() -> None:
    assert bounds_of(planned()) == Bounds(4, 32, 16, 5)
    assert bounds_of(echo_manifest()) is None


def test_a_plan_fits_its_version_and_its_gpu() -> None:
    check_fits(planned(), "10.15.1.29", "sm90")
    with pytest.raises(EngineIncompatible, match=r"of TensorRT 10.15.1.29, and 10.16.0.1 is inst"):
        check_fits(planned(), "10.16.0.1", "sm90")
    with pytest.raises(EngineIncompatible, match=r"for sm90, and the GPU here is sm80: .*sm80"):
        check_fits(planned(), "10.15.1.29", "sm80")


def test_prompts_come_in_chunks_that_the_plan_takes() -> None:
    limits = limits_for(planned(chunk=32), Tuning(max_step_tokens=500))
    assert (limits.max_step_tokens, limits.longest_row) == (500, 32)
    assert limits_for(echo_manifest(), Tuning()).longest_row is None


def test_guesses_are_no_more_than_the_plan_checks() -> None:
    tuning = Tuning(speculation=Speculation(Method.NGRAM, tokens=4))
    assert limits_for(planned(), tuning).lookahead == 4
    more = replace(tuning, speculation=Speculation(Method.NGRAM, tokens=5))
    with pytest.raises(InvalidOption, match="--speculative-tokens 5: 4 guesses"):
        limits_for(planned(), more)


def opened(manifest: Manifest, kv_heads: int = 2) -> None:
    pool = PoolShape(1, 0, PAGE, kv_heads, 4, "float16")
    open_plan(Path("none.plan"), manifest, limits_for(planned(), Tuning()), pool)


@pytest.mark.skipif(compute_capability() is not None, reason="there is a GPU")
def test_without_a_gpu_the_remedy_is_told() -> None:
    with pytest.raises(EngineIncompatible, match=r"none can be used here .*nvidia.com/gpu"):
        opened(planned())


def test_what_a_gpu_does_not_serve_is_refused_before_it_is_asked_for() -> None:
    with pytest.raises(
        EngineIncompatible, match="takes adapters, which this runtime serves on CPUs"
    ):
        opened(planned(lora=Lora(max_rank=4)))
    with pytest.raises(EngineIncompatible, match="a token takes 24 bytes of a layer's pool"):
        opened(planned(), kv_heads=3)


def test_a_split_plan_is_refused_by_name(tmp_path: Path) -> None:
    split = planned().model_copy(update={"ranks": planned().ranks * 2})
    (tmp_path / MANIFEST_NAME).write_text(split.to_json())
    with pytest.raises(EngineIncompatible, match="is split into 2 plans"):
        open_engine(tmp_path, 2)
