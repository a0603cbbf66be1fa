"""Ranks with plans on GPUs of host memory, each in a thread as its process would run it: the right tokens."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from pitcrew_builder.checkpoint.directory import Directory, read_tensors
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.layout import layouts
from pitcrew_builder.manifest import GraphInterface, PlanReport, ResolvedShapes
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import Parallelism
from pitcrew_builder.targets.onnx_files import write_onnx
from pitcrew_builder.targets.target import Network as Drawn
from pitcrew_builder.targets.trt.parts import parts
from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.request import GREEDY, Request, Sampling
from pitcrew_runtime.execution.gpu.network import PlanNetwork, Scratch
from pitcrew_runtime.execution.gpu.shapes import Bounds, Capacity, usual_shapes
from pitcrew_runtime.execution.gpu.split_plan import SplitPlan
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.packing import Packed, with_block_tables
from pitcrew_runtime.execution.program import open_session
from pitcrew_runtime.ranks import wire
from pitcrew_runtime.ranks.messages import (
    FREE,
    LOGITS,
    TOKENS,
    Kind,
    load_message,
    pool_message,
    step_message,
)
from pitcrew_runtime.ranks.part import Ready
from pitcrew_runtime.ranks.worker import LeaderGone, follow
from tests.integration.runtime.test_plan_network import answers, crowd
from tests.unit.runtime.gpu_doubles import (
    HostExchanger,
    HostExchanges,
    HostGpu,
    HostKernels,
    HostPlan,
)

Array = NDArray[Any]
GOLDENS = Path(__file__).parents[2] / "golden/data"
PAGE, PAGES, LENGTH = 7, 40, 90
BOUNDS = Bounds(batch=8, new=40, blocks=16, wanted=8)
LIMITS = Limits(6, 40, 100, LENGTH, PAGE, lookahead=4)


class Leader:
    """A `Network` whose ranks are threads."""

    pages, page_size, wanted, fault = PAGES, PAGE, BOUNDS.wanted, None

    def __init__(self, checkpoint: Path, folder: Path, split: Parallelism) -> None:
        self.gpus: list[HostGpu] = []
        self._ends, self._threads = [], []
        self._exchanges = HostExchanges(split.world_size)
        for rank in range(split.world_size):
            interface, kv_heads, vocabulary = drawn(checkpoint, folder, split, rank)
            ours, theirs = wire.pair()
            gpu = HostGpu()
            self.gpus.append(gpu)
            self._ends.append(ours)

            def load(
                limits: Limits,
                rank: int = rank,
                gpu: HostGpu = gpu,
                interface: GraphInterface = interface,
                facts: tuple[int, int, int] = (kv_heads, vocabulary[0], vocabulary[1]),
            ) -> Ready:
                exchanger = HostExchanger(gpu, rank, self._exchanges)
                return opened(folder, gpu, interface, facts, limits, exchanger)

            work = threading.Thread(target=self._rank, args=(theirs, load, rank == 0))
            work.start()
            self._threads.append(work)
        self._ask(load_message(LIMITS))
        assert [int(each[FREE]) for each in self._ask(wire.Message(Kind.FREE))] == [1 << 30] * 2
        self._ask(pool_message(PAGES))

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        for end in self._ends if pairs else ():
            wire.send(end, wire.Message(Kind.COPY, {"pairs": np.asarray(pairs, np.int64)}))

    def hold(self, adapters: Mapping[int, Adapter]) -> None:
        assert not adapters

    def run(self, packed: Packed) -> Array:
        return self._told(packed, Kind.STEP, LOGITS)

    def likeliest(self, packed: Packed) -> Array:
        return self._told(packed, Kind.TOKENS, TOKENS)

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self._exchanges.leave()
        for thread in self._threads:
            thread.join()

    def _told(self, packed: Packed, kind: Kind, name: str) -> Array:
        first, *others = self._ask(step_message(with_block_tables(packed, PAGE), kind))
        assert others == [{}], "one rank speaks"
        return first[name]

    def _ask(self, message: wire.Message) -> list[Mapping[str, Any]]:
        for end in self._ends:
            wire.send(end, message)
        return [wire.receive(end).arrays for end in self._ends]

    @staticmethod
    def _rank(end: socket.socket, load: Callable[[Limits], Ready], speaks: bool) -> None:
        try:
            follow(end, load, speaks=speaks)
        except LeaderGone:
            end.close()


def drawn(
    checkpoint: Path, folder: Path, split: Parallelism, rank: int
) -> tuple[GraphInterface, int, tuple[int, int]]:
    """A rank's parts in float32 as ONNX in place of plans; its KV heads; vocabulary and head's size."""
    raw = json.loads((checkpoint / "config.json").read_text())
    family = FAMILIES[raw["model_type"]]
    config = family.config.model_validate(raw)
    shapes = ResolvedShapes(max_batch_size=8, max_sequence_length=LENGTH, kv_page_size=PAGE)
    graph = family.draw(config, shapes).graph(list(layouts(split))[rank])
    made = parts(graph, PAGE)
    network = Drawn(graph, read_tensors(Directory.of(checkpoint)))
    about = {"engine_id": "test", "tag": "test"}
    written = write_onnx(
        folder, f"rank{rank}", network, about, Tracker(lambda _: None), cut=made.segments
    )
    report = PlanReport(profiles=(), blocks=(), passed=made.passed)
    pools = [port for port in graph.inputs if port.name.startswith("key_pool")]
    assert pools[0].shape is not None
    *_, kv_heads, head_dim = pools[0].shape
    interface = written.interface.model_copy(update={"graph": None, "plan": report})
    return interface, int(kv_heads), (config.vocab_size, int(head_dim))


def opened(
    folder: Path,
    gpu: HostGpu,
    interface: GraphInterface,
    facts: tuple[int, int, int],
    limits: Limits,
    exchanger: HostExchanger,
) -> Ready:
    """As `open_rank` does it."""
    assert limits == replace(LIMITS, max_waiting=1), "what bounds a run has come along"
    plans = [
        HostPlan(open_session(folder / each.graph, 1), gpu, BOUNDS) for each in interface.segments
    ]
    assert interface.plan is not None
    passed = interface.plan.passed
    plan = SplitPlan(cast(Any, gpu), plans, interface.segments, passed, exchanger)
    capacity = Capacity.of(limits, BOUNDS)
    plan.make_room(capacity, BOUNDS, PAGE)
    kv_heads, vocabulary, head_dim = facts
    layers = sum(name.startswith("key_pool") for name in plan.inputs)
    shape = PoolShape(layers, PAGES, PAGE, kv_heads, head_dim, "float32")
    scratch = Scratch(cast(Any, gpu), capacity, replace(shape, pages=0), vocabulary)

    def part(pages: int) -> PlanNetwork:
        kernels = cast(Any, HostKernels(gpu))
        network = PlanNetwork(cast(Any, gpu), kernels, plan, scratch, BOUNDS, shape)
        network.warm(usual_shapes(limits, BOUNDS)[::7])
        return network

    return Ready(lambda: 1 << 30, part)


@pytest.fixture(scope="module", params=["llama3", "mixtral", "mixtral-experts", "olmo2"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Leader]]:
    name, _, experts = request.param.partition("-")
    split = Parallelism(expert=2) if experts else Parallelism(tensor=2)
    leader = Leader(GOLDENS / name, tmp_path_factory.mktemp("ranks"), split)
    yield GOLDENS / name, leader
    leader.close()


def tokens(leader: Leader, limits: Limits, pages: int, requests: list[Request]) -> list[list[int]]:
    return answers(leader, limits, pages, requests)[0]


def test_tokens_are_those_of_transformers(house: tuple[Path, Leader]) -> None:
    checkpoint, leader = house
    with np.load(checkpoint / "expected.npz") as data:
        prompts, greedy = data["prompt"].tolist(), data["greedy"].tolist()
    asked = [Request(i, tuple(p), len(greedy[0]), 0.0) for i, p in enumerate(prompts)]
    limits = Limits(6, 40, 100, LENGTH, PAGE)
    assert tokens(leader, limits, PAGES, asked) == greedy


@pytest.mark.parametrize(
    ("steps", "pages", "lookahead", "sampling"),
    [
        (9, PAGES, 0, GREEDY),
        (40, 14, 0, GREEDY),
        (40, PAGES, 4, GREEDY),
        (40, PAGES, 0, Sampling(temperature=0.8, top_p=0.9, seed=5)),
        (40, PAGES, 0, Sampling(logprobs=3)),
    ],
)
def test_company_changes_no_token(
    house: tuple[Path, Leader], steps: int, pages: int, lookahead: int, sampling: Sampling
) -> None:
    _, leader = house
    limits = Limits(6, steps, 100, LENGTH, PAGE, lookahead=lookahead)
    requests = crowd(7, sampling)
    replays = [gpu.replays for gpu in leader.gpus]
    found = tokens(leader, limits, pages, requests)
    assert [gpu.replays for gpu in leader.gpus] > replays
    alone = Limits(6, 40, 100, LENGTH, PAGE)
    assert found == [tokens(leader, alone, PAGES, [one])[0] for one in requests]
    first, second = leader.gpus
    assert (first.captures, first.replays) == (second.captures, second.replays)
