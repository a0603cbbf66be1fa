"""An engine split over two GPUs: what it computes, served over HTTP, and its end when a rank is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.errors import WorldSizeMismatch
from tests.gpu.needs import SPLIT, sample_plan
from tests.integration.builder.plans import GOLDENS
from tests.integration.runtime.servers import DEADLINE, Server, serving, wait_until
from tests.integration.runtime.test_ranks import alive, children

pytestmark = SPLIT
FAMILIES = Path(__file__).parents[2] / "bench/gpu/facts/families.py"
PROMPT = "And it came to pass, "


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_plan(tmp_path_factory.mktemp("plans"), parallelism={"tensor": 2})


@pytest.fixture
def server(engine: Path, tmp_path: Path) -> Iterator[Server]:
    """Ready: its canary has been repeated."""
    with serving(engine, tmp_path, "--world-size", "2") as server:
        yield server


@pytest.mark.parametrize("name", ["llama3", "gemma2", "olmo2", "gpt-oss"])
def test_logits_and_tokens_are_those_of_transformers(name: str) -> None:
    kernels = ["--attention", "kernel", "--products", "kernel"]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", FAMILIES, GOLDENS / name, *kernels, "--tensor-parallel=2"],
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in run.stdout.splitlines() if line.startswith("   ")]
    assert run.returncode == 0, "\n".join(told) or run.stderr


def test_answers_stream_and_repeat_and_a_signal_ends_all(server: Server) -> None:
    asked = {"model": server.name, "prompt": PROMPT, "max_tokens": 60, "temperature": 0}
    whole, pieces = server.whole_and_streamed(asked)
    assert len(pieces) > 10
    assert "".join(pieces) == whole
    sampled = {**asked, "temperature": 0.9, "seed": 7, "logprobs": 2}
    first, second = (server.client.completions.create(**sampled) for _ in range(2))
    assert first.choices[0].text == second.choices[0].text
    ranks = children(server)
    assert len(ranks) == 2
    assert server.terminate() == 0
    assert not any(map(alive, ranks))


def test_a_lost_rank_ends_the_server_and_is_named(server: Server) -> None:
    stream = server.client.completions.create(
        model=server.name, prompt=PROMPT, max_tokens=400, stream=True, temperature=0
    )
    next(iter(stream))
    ranks = children(server)
    os.kill(ranks[1], signal.SIGKILL)
    wait_until(lambda: "SIGKILL" in server.liveness(), "liveness is red and names the signal")
    assert server.process.wait(DEADLINE) == 1, "so that Kubernetes starts it anew"
    wait_until(lambda: not any(map(alive, ranks)), "the rank that waits for the other is ended too")


def test_another_world_size_is_refused_with_both_numbers(engine: Path) -> None:
    with pytest.raises(WorldSizeMismatch, match=r"built for 2 rank.*this runtime has 1"):
        open_engine(engine, 1)


def test_fewer_gpus_than_ranks_are_refused_with_both_numbers(engine: Path, tmp_path: Path) -> None:
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    run = subprocess.run(
        [sys.executable, "-m", "pitcrew_runtime.cli", "--engine", engine, "--world-size", "2"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "0" if before is None else before.split(",")[0]},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert run.returncode != 0
    assert "runs 2 ranks in this pod with a GPU each, and the pod has 1" in run.stderr
