"""The network over a plan, on a GPU of host memory: all that the runtime does there but the GPU itself."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from pitcrew_runtime.assembly import Tuning, limits_for
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import ExecutorBroken
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.plan import Counts
from pitcrew_runtime.core.request import GREEDY, Request, Sampling
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.execution.executor import NetworkExecutor
from pitcrew_runtime.execution.gpu.network import PlanNetwork, Scratch
from pitcrew_runtime.execution.gpu.shapes import Bounds, Capacity, Shape
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.network import Network
from pitcrew_runtime.execution.packing import Packed, pack
from pitcrew_runtime.execution.program import open_session
from pitcrew_runtime.networks import Means, load_weights
from pitcrew_runtime.speculation.executor import SpeculativeExecutor
from pitcrew_runtime.speculation.ngram import NgramProposer
from tests.integration.runtime.conftest import Engines
from tests.unit.runtime.gpu_doubles import HostGpu, HostKernels, HostPlan

PAGE, PAGES = 7, 40
BOUNDS = Bounds(batch=8, new=40, blocks=16, wanted=8)
LIMITS = Limits(6, 40, 100, 90, PAGE, lookahead=4)


class House:
    """One engine twice: on ONNX Runtime as ever, and as a plan."""

    def __init__(self, engines: Engines) -> None:
        directory = open_engine(engines("llama3", "--kv-page-size", str(PAGE)), 1)
        manifest = directory.manifest
        model = manifest.model
        shape = PoolShape(model.layers, PAGES, PAGE, model.kv_heads, model.head_dim, "float32")
        self.gpu = HostGpu()
        plan = HostPlan(
            open_session(directory.listed(manifest.ranks[0].graph), 1), self.gpu, BOUNDS
        )
        gpu = cast(Any, self.gpu)
        scratch = Scratch(gpu, Capacity.of(LIMITS, BOUNDS), shape, model.vocab_size)
        kernels = cast(Any, HostKernels(self.gpu))
        self.network = PlanNetwork(gpu, kernels, cast(Any, plan), scratch, BOUNDS, shape)
        tuning = Tuning(threads=1)
        weights = load_weights(directory, limits_for(manifest, tuning), Means(1))
        self.reference = weights.network(PAGES)

    def tokens(self, limits: Limits, pages: int, requests: list[Request], *, plan: bool) -> object:
        """Of each request, all asked for at once."""
        network = self.network if plan else self.reference
        found, self.counts = answers(network, limits, pages, requests)
        return found


def answers(
    network: Network, limits: Limits, pages: int, requests: list[Request]
) -> tuple[list[list[int]], Counts]:
    """The tokens of each request, all asked for at once; and what it took."""
    executor: Any = NetworkExecutor(network)
    if limits.lookahead:
        executor = SpeculativeExecutor(executor, NgramProposer(shortest=1))
    engine = Engine(Scheduler(limits, PageAllocator(pages)), executor)
    engine.submit(*requests)
    found: dict[int, list[int]] = {request.id: [] for request in requests}
    while not engine.idle:
        for update in engine.step(0.0).updates:
            if update.sampled is not None:
                found[update.request_id].append(update.sampled.token)
    return list(found.values()), engine.gauges().counts


@pytest.fixture(scope="module")
def house(engines: Engines) -> Iterator[House]:
    home = House(engines)
    yield home
    home.network.close()
    with pytest.raises(ExecutorBroken, match="closed"):
        home.network.copy([(0, 1)])


def crowd(count: int, sampling: Sampling = GREEDY) -> list[Request]:
    rng = np.random.default_rng(3)
    beginning = rng.integers(0, 500, 17).tolist()
    return [
        Request(
            index,
            (*beginning[: 17 * (index % 2)], *rng.integers(0, 500, 3 + 5 * (index % 4)).tolist()),
            12 + index,
            0.0,
            sampling,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("steps", "pages", "lookahead", "sampling"),
    [
        (40, PAGES, 0, GREEDY),
        (9, PAGES, 0, GREEDY),
        (40, 14, 0, GREEDY),
        (40, PAGES, 4, GREEDY),
        (40, 14, 4, Sampling(temperature=0.8, top_p=0.9, seed=5)),
        (40, PAGES, 0, Sampling(logprobs=3)),
    ],
)
def test_tokens_are_those_of_the_network_on_the_cpu(
    house: House, steps: int, pages: int, lookahead: int, sampling: Sampling
) -> None:
    limits = Limits(6, steps, 100, 90, PAGE, lookahead=lookahead)
    requests = crowd(11, sampling)
    replays = house.gpu.replays
    found = house.tokens(limits, pages, requests, plan=True)
    assert house.counts.reused_tokens > 0
    assert (house.counts.preemptions > 0) == (pages < PAGES)
    assert found == house.tokens(limits, pages, requests, plan=False)
    assert house.gpu.replays > replays


def test_a_fork_copies_the_page_that_it_writes_to(house: House) -> None:
    first = Request(0, tuple(range(5, 15)), 9, 0.0, Sampling(temperature=0.9, seed=1))
    second = Request(1, first.prompt, 9, 0.0, Sampling(temperature=0.9, seed=2), fork_of=0)
    found = house.tokens(LIMITS, PAGES, [first, second], plan=True)
    assert found == house.tokens(LIMITS, PAGES, [first, second], plan=False)


def test_prompts_are_scored_in_pieces_that_the_plan_takes(house: House) -> None:
    prompt = tuple(range(20, 47))
    row = Row(0, prompt, 0, [3, 1, 4, 2], GREEDY, prompt, len(prompt), scored=2)
    both = [
        NetworkExecutor(network).execute(StepBatch([row], PAGE))[0]
        for network in (house.network, house.reference)
    ]
    assert [one.token for one in both[0]] == [one.token for one in both[1]]
    scores = [[one.logprob for one in each[:-1]] for each in both]
    assert len(scores[0]) == len(prompt) - 1
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_step_of_one_shape_is_captured_once_and_the_host_reads_no_logits(house: House) -> None:
    def packed(token: int, start: int) -> Packed:
        return pack([Row(0, [token], start, [5, 6], GREEDY)] * 3, PAGE)

    house.network.likeliest(packed(4, 8))
    captures, replays = house.gpu.captures, house.gpu.replays
    read = house.network._scratch.read
    read[:] = 5.0
    best = house.network.likeliest(packed(9, 9))
    assert (read == 5.0).all()
    assert (house.gpu.captures, house.gpu.replays) == (captures, replays + 1)
    logits = house.network.run(packed(9, 9))
    assert logits.shape == (3, 1, 512)
    assert (logits.argmax(-1) == best).all()


def test_shapes_that_were_met_are_replayed(house: House) -> None:
    house.network.warm([Shape(2, 1, 8, 1), Shape(1, 20, 0, 1)])
    captures = house.gpu.captures
    house.network.likeliest(pack([Row(0, [4], 55, list(range(9)), GREEDY)] * 2, PAGE))
    house.network.likeliest(pack([Row(0, [4] * 18, 0, [1, 2, 3], GREEDY)], PAGE))
    assert house.gpu.captures == captures


def test_a_driver_that_fails_breaks_the_network_and_says_why(engines: Engines) -> None:
    home = House(engines)
    home.gpu.broken = True
    assert home.network.fault is None
    with pytest.raises(ExecutorBroken, match="ILLEGAL_ADDRESS"):
        home.network.likeliest(pack([Row(0, [4], 0, [5], GREEDY)], PAGE))
    assert "ILLEGAL_ADDRESS" in (home.network.fault or "")
