"""Split engines, served by a process for each rank: right tokens, and a group that ends as one."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_runtime.adapters.reading import read_adapter
from pitcrew_runtime.adapters.weights import LoraWeights, Room
from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import ExecutorBroken
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.request import Request
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.errors import RankFailed, WorldSizeMismatch
from pitcrew_runtime.ranks.group import RankGroup
from pitcrew_runtime.ranks.launch import GroupShape
from tests.integration.runtime.conftest import Engines, Serve
from tests.integration.runtime.servers import DEADLINE, Server, serving, wait_until

GOLDENS = Path(__file__).parents[2] / "golden/data"
TP2 = ("--tensor-parallel", "2")
SPLITS = {
    "tp2": ("llama3", TP2),
    "tp4-pp2": ("llama3", ("--tensor-parallel", "4", "--pipeline-parallel", "2")),
    "tp2-ep2": ("mixtral", (*TP2, "--expert-parallel", "2")),
}


@pytest.mark.parametrize("split", SPLITS)
def test_ranks_give_the_reference_s_tokens(split: str, engines: Engines) -> None:
    checkpoint, options = SPLITS[split]
    with np.load(GOLDENS / checkpoint / "expected.npz") as data:
        prompts, greedy = data["prompt"].tolist(), data["greedy"].tolist()
    engine = split_engine(engines(checkpoint, "--kv-page-size", "7", *options))
    try:
        assert together(engine, prompts, len(greedy[0])) == greedy
    finally:
        engine.close()


def test_each_rank_takes_its_part_of_an_adapter(engines: Engines) -> None:
    room = ("--max-loras", "2", "--max-lora-rank", "8")
    whole, split = engines("llama3", *room), engines("llama3", *room, *TP2)
    with np.load(GOLDENS / "adapters/llama-lora/expected.npz") as data:
        prompts = data["prompt"].tolist()
    told = [adapted(path, prompts) for path in (whole, split)]
    assert told[0] == told[1]
    assert told[0][0] != told[0][-1], "with and without an adapter"


def test_another_world_size_is_refused_with_both_numbers(engines: Engines) -> None:
    with pytest.raises(WorldSizeMismatch, match=r"built for 2 rank.*this runtime has 1") as caught:
        open_engine(engines("llama3", *TP2), 1)
    assert "set worldSize" in str(caught.value)


def test_a_lost_rank_ends_the_group_and_is_named(engines: Engines) -> None:
    group = ranks_of(engines("llama3", *TP2))
    group.open(4)
    os.kill(group.processes[1], signal.SIGKILL)
    wait_until(lambda: group.fault is not None, "the loss is noticed while nobody asks")
    assert group.fault is not None
    assert "rank 1 was ended by SIGKILL" in group.fault
    wait_until(lambda: not any(map(alive, group.processes)), "the other rank is ended")
    with pytest.raises(ExecutorBroken, match="rank 1"):
        group.copy([(0, 1)])
    group.close()


def test_a_rank_that_cannot_load_says_why(engines: Engines, tmp_path: Path) -> None:
    path = engines("llama3", *TP2)
    manifest = open_engine(path, 2).manifest
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(RankFailed, match=r"rank \d: EngineIncompatible"):
        RankGroup(shape_of(tmp_path, manifest.ranks, 16), Limits(2, 8, 1, 64, 16))


def test_ranks_end_with_their_leader(engines: Engines, tmp_path: Path) -> None:
    """However it ends: it is killed in the middle of the group's life."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.integration.runtime.test_ranks import ranks_of\n"
        "group = ranks_of(Path(sys.argv[1]))\n"
        "print(*group.processes, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(engines("llama3", *TP2))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        ranks = [int(number) for number in leader.stdout.readline().split()]
        assert len(ranks) == 2
        leader.kill()
    wait_until(lambda: not any(map(alive, ranks)), "both ranks are gone")


def test_a_server_of_two_ranks_turns_red_when_one_is_lost(engines: Engines, tmp_path: Path) -> None:
    engine = engines("tiny-kjv", *TP2)
    with serving(engine, tmp_path, "--world-size", "2", name="model") as server:
        answer = server.client.completions.create(
            model="model", prompt="And God said", max_tokens=8, temperature=0
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8
        ranks = children(server)
        os.kill(ranks[0], signal.SIGKILL)
        wait_until(lambda: "SIGKILL" in server.liveness(), "liveness is red and names the signal")
        assert server.process.wait(DEADLINE) == 1, "so that Kubernetes starts it anew"
        wait_until(lambda: not any(map(alive, ranks)), "no rank is left")
        assert "GroupLost: rank" in server.log.read_text()


def test_a_rank_that_hangs_turns_liveness_red_until_it_goes_on(
    engines: Engines, serve: Serve
) -> None:
    """It is alive, so only the watchdog can notice."""
    options = ("--world-size", "2", "--wedge-seconds", "1")
    with serve(engines("tiny-kjv", *TP2), *options) as server:
        stream = server.client.completions.create(
            model="model", prompt="And God said", max_tokens=300, stream=True, temperature=0
        )
        pieces = iter(stream)
        next(pieces)
        hanging = children(server)[1]
        os.kill(hanging, signal.SIGSTOP)
        wait_until(lambda: "a step has been running for" in server.liveness(), "liveness is red")
        assert "limit 1 s" in server.liveness()
        os.kill(hanging, signal.SIGCONT)
        *_, last = pieces
        assert last.choices[0].finish_reason == "length"
        assert server.get("/health/live").status_code == 200


def test_sigterm_drains_and_leaves_no_rank(engines: Engines, serve: Serve) -> None:
    with serve(engines("tiny-kjv", *TP2), "--world-size", "2") as server:
        ranks = children(server)
        assert len(ranks) == 2
        assert server.terminate() == 0
    assert not any(map(alive, ranks))


def split_engine(path: Path) -> Engine:
    manifest = open_engine(path, world_size(path)).manifest
    tuning = Tuning(threads=1, kv_memory=256 * manifest.kv_bytes_per_token)
    return assemble(open_engine(path, manifest.world_size), tuning)


def adapted(path: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy tokens under PEFT's adapter, and last those of the first prompt without."""
    manifest = open_engine(path, world_size(path)).manifest
    room = Room.of(manifest)
    assert room is not None
    adapter = read_adapter(Directory.of(GOLDENS / "adapters/llama-lora"), room)
    engine = split_engine(path)
    try:
        return together(engine, [*prompts, prompts[0]], 12, [adapter] * len(prompts))
    finally:
        engine.close()


def world_size(path: Path) -> int:
    return len(list(path.glob("rank*")))


def together(
    engine: Engine, prompts: list[list[int]], count: int, adapters: Sequence[LoraWeights] = ()
) -> list[list[int]]:
    """Greedy continuations, all in one batch; the first prompts have an adapter each."""
    for number, (prompt, adapter) in enumerate(zip_longest(prompts, adapters)):
        engine.submit(Request(number, tuple(prompt), count, 0.0, adapter=adapter))
    tokens: list[list[int]] = [[] for _ in prompts]
    step = 0.0
    while not engine.idle:
        for update in engine.step(step).updates:
            if update.sampled is not None:
                tokens[update.request_id].append(update.sampled.token)
        step += 1
    return tokens


def ranks_of(path: Path) -> RankGroup:
    manifest = open_engine(path, 2).manifest
    page_size = manifest.identity.shapes.kv_page_size
    return RankGroup(shape_of(path, manifest.ranks, page_size), Limits(2, 8, 1, 64, page_size))


def shape_of(path: Path, ranks: tuple[object, ...], page_size: int) -> GroupShape:
    return GroupShape(path, ranks, page_size, adapter_slots=0, threads=1)  # type: ignore[arg-type]


def children(server: Server) -> list[int]:
    own = Path(f"/proc/{server.process.pid}/task")
    return [
        int(child)
        for task in own.iterdir()
        for child in (task / "children").read_text().split()
        if "ranks.worker" in Path(f"/proc/{child}/cmdline").read_text()
    ]


def alive(process: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
