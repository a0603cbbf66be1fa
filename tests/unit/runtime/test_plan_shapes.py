"""What is arithmetic about running a plan on a GPU: shapes, the arena of inputs, graphs kept, fits."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_builder.manifest import (
    MANIFEST_NAME,
    Exchange,
    Manifest,
    PassedValue,
    PlanProfile,
    PlanReport,
    SegmentFile,
)
from pitcrew_builder.spec import ComputeCapability, Lora, Parallelism, Target, TensorRtPlan
from pitcrew_builder.targets.trt.gpu import compute_capability
from pitcrew_runtime.assembly import Tuning, limits_for
from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.request import GREEDY
from pitcrew_runtime.drafting import Method, Speculation
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.errors import EngineIncompatible, InvalidOption
from pitcrew_runtime.execution.gpu.arena import NOWHERE, SLOTS, Arena, layout
from pitcrew_runtime.execution.gpu.device import GpuFailed
from pitcrew_runtime.execution.gpu.graphs import GraphCache
from pitcrew_runtime.execution.gpu.kernels import tokens_of
from pitcrew_runtime.execution.gpu.nccl import Nccl
from pitcrew_runtime.execution.gpu.opening import check_seats, open_plan
from pitcrew_runtime.execution.gpu.passing import (
    Life,
    dims_of,
    lay_out,
    lives,
    most_bytes,
    sizes_of,
)
from pitcrew_runtime.execution.gpu.plan import check_fits
from pitcrew_runtime.execution.gpu.shapes import (
    ALIGNMENT,
    STEP,
    Bounds,
    Capacity,
    Shape,
    aligned,
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
from tests.unit.runtime.gpu_doubles import HostGpu, at
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


def test_what_is_not_served_of_a_split_engine_is_refused_by_name(tmp_path: Path) -> None:
    def refused(manifest: Manifest) -> str:
        identity = manifest.identity
        named = manifest.model_copy(update={"engine_id": identity.engine_id})
        (tmp_path / MANIFEST_NAME).write_text(named.to_json())
        with pytest.raises(EngineIncompatible) as caught:
            open_engine(tmp_path, 2)
        return str(caught.value)

    ranks = {"ranks": planned().ranks * 2}
    stages = planned(parallelism=Parallelism(pipeline=2)).model_copy(update=ranks)
    assert "is split into 2 pipeline stages" in refused(stages)
    assert "parallelism.pipeline 1" in refused(stages)
    whole = planned(parallelism=Parallelism(tensor=2)).model_copy(update=ranks)
    assert "has one plan for each of its 2 ranks" in refused(whole)


def test_fewer_gpus_than_ranks_are_refused_with_both_numbers() -> None:
    check_seats("llama", 2, 2)
    with pytest.raises(
        EngineIncompatible, match=r"runs 4 ranks .*, and the pod has 2: .*to 4, .*2\)"
    ):
        check_seats("llama", 4, 2)


def test_values_share_memory_only_where_they_do_not_live_together() -> None:
    def exchange(value: str) -> Exchange:
        return Exchange(operator="AllReduce", value=value, result=f"{value}+", group=(0, 1))

    segments = [
        SegmentFile(graph="0", exchanges=(exchange("a"),)),
        SegmentFile(graph="1", exchanges=(exchange("b"),)),
        SegmentFile(graph="2", exchanges=()),
    ]
    reads = [frozenset[str](), frozenset({"a+", "mask"}), frozenset({"b+", "rows", "mask"})]
    makes = [frozenset({"a", "mask"}), frozenset({"b", "rows"}), frozenset[str]()]
    found = {one.name: (one.begin, one.end) for one in lives(segments, reads, makes)}
    assert found == {
        "a": (0, 1), "mask": (0, 4), "a+": (1, 2), "b": (2, 3), "rows": (2, 4), "b+": (3, 4),
    }  # fmt: skip


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 5000)),
        min_size=1,
        max_size=24,
    )
)
def test_values_that_live_together_never_overlap(drawn: list[tuple[int, int, int]]) -> None:
    living = [Life(str(i), begin, begin + length) for i, (begin, length, _) in enumerate(drawn)]
    sizes = {str(i): size for i, (_, _, size) in enumerate(drawn)}
    layout = lay_out(living, sizes)
    ends = {name: at + sizes[name] for name, at in layout.offsets.items()}
    for one, other in combinations(living, 2):
        if one.begin <= other.end and other.begin <= one.end:
            apart = (
                ends[one.name] <= layout.offsets[other.name]
                or ends[other.name] <= layout.offsets[one.name]
            )
            assert apart
    assert all(at % ALIGNMENT == 0 for at in layout.offsets.values())
    assert max(ends.values()) <= layout.nbytes <= sum(map(aligned, sizes.values()))


def test_values_have_room_for_the_largest_run_and_no_more_than_that() -> None:
    capacity = Capacity(tokens=100, logits=20, arena=0)

    def most(*shape: int | str) -> int:
        value = PassedValue(name="v", type="float16", shape=shape)
        return most_bytes(value, capacity, BOUNDS, PAGE)

    assert most("rows", 8) == 100 * 8 * 2
    assert most("batch", "new", 8) == 100 * 8 * 2, "rows and their tokens are bounded together"
    assert most("batch", 1, "new", "seen") == 100 * (12 * PAGE + 32) * 2
    assert most("wanted_rows", 5) == 20 * 5 * 2
    sizes = sizes_of(Shape(3, 2, 5, 1), PAGE)
    value = PassedValue(name="v", type="float16", shape=("batch", 1, "new", "seen"))
    assert dims_of(value, sizes) == (3, 1, 2, 5 * PAGE + 2)
    assert Shape.of(Shape(3, 2, 5, 1).inputs) == Shape(3, 2, 5, 1)


class _Library:
    """NCCL that says what it is asked, and gathers for real."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.met: list[tuple[int, int, bytes]] = []
        self.asked: list[tuple[object, ...]] = []

    def ncclGetUniqueId(self, identity: object) -> int:
        identity._obj.internal = b"name of a group"  # type: ignore[attr-defined]
        return 0

    def ncclCommInitRank(self, _: object, count: int, identity: object, index: int) -> int:
        self.met.append((count, index, identity.internal))  # type: ignore[attr-defined]
        return 0

    def ncclAllReduce(self, *arguments: object) -> int:
        self.asked.append(arguments[2:5])
        return self.error

    def ncclAllGather(self, given: int, result: int, count: int, *_: object) -> int:
        part = at(given, (count,), np.float32)
        at(result, (2, count), np.float32)[:] = part, part + 100
        return 0

    def ncclCommDestroy(self, _: object) -> int:
        return 0

    def ncclGetErrorString(self, error: int) -> bytes:
        return b"unhandled system error"


class _Said:
    """The other ranks, as the first of the group named it."""

    named: np.ndarray | None = None

    def exchange(self, what: Exchange, value: np.ndarray) -> np.ndarray:
        _Said.named = value if value.any() else _Said.named
        assert _Said.named is not None
        return _Said.named


def test_ranks_find_their_groups_and_lay_parts_side_by_side() -> None:
    library = _Library()
    gpu = HostGpu()
    gpu.stream = 7  # type: ignore[attr-defined]
    groups = [(0, 1), (2, 3)]
    first, second = (
        Nccl(library, gpu, rank, groups, _Said(), 1 << 12)  # type: ignore[arg-type]
        for rank in (0, 1)
    )
    assert library.met == [(2, 0, b"name of a group"), (2, 1, b"name of a group")]
    second.sum((0, 1), 8, 16, 5, "bfloat16")
    assert library.asked == [(5, 9, 0)]
    given, result = gpu.zeros(24, "given"), gpu.zeros(48, "result")
    at(given, (2, 3), np.float32)[:] = np.arange(6).reshape(2, 3)
    first.gather((0, 1), given, result, (2, 3), "float32")
    assert at(result, (2, 6), np.float32).tolist() == [
        [0, 1, 2, 100, 101, 102],
        [3, 4, 5, 103, 104, 105],
    ]
    first.close()
    failing = Nccl(_Library(error=2), gpu, 0, groups, _Said(), 0)  # type: ignore[arg-type]
    with pytest.raises(GpuFailed, match="NCCL: unhandled system error; NCCL_DEBUG=WARN"):
        failing.sum((0, 1), 8, 16, 5, "float16")
