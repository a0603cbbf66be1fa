"""Split engines whose ranks run in several pods: processes with addresses of their own on loopback."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.cli import main
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.errors import RankFailed
from pitcrew_runtime.ranks.pods import Pods
from tests.certificates import Authority
from tests.integration.runtime.conftest import Engines
from tests.integration.runtime.servers import DEADLINE, Server, command, serving, wait_until
from tests.integration.runtime.test_ranks import GOLDENS, TP2, alive, children, together

PORT = 8002
PP2 = ("--pipeline-parallel", "2")
SPLITS = {
    "tp2 x pp2 over 2": ("llama3", (*TP2, *PP2), 2, 2, False),
    "tp2 x ep2 over 4": ("mixtral", (*TP2, "--expert-parallel", "2"), 4, 1, False),
    "tp2 x ep2 over 4, TLS": ("mixtral", (*TP2, "--expert-parallel", "2"), 4, 1, True),
}
_numbers = count(1)


@dataclass
class Group:
    """A group of pods of which the tests start the members that they want."""

    engine: Path
    folder: Path
    pods: int
    each: int
    number: int
    token: str = "the group's secret"
    tls: Path | None = None

    def host(self, index: int) -> str:
        """Nobody else on this machine has it."""
        return f"127.{os.getpid() % 200 + 20}.{self.number % 250}.{index + 1}"

    def env(self, index: int) -> dict[str, str]:
        return {
            "LWS_LEADER_ADDRESS": self.host(0),
            "LWS_GROUP_SIZE": str(self.pods),
            "LWS_WORKER_INDEX": str(index),
        }

    def options(self, index: int) -> list[str]:
        secret = self.folder / "token"
        secret.write_text(self.token)
        world = ["--world-size", str(self.pods * self.each), "--ranks-per-pod", str(self.each)]
        where = ["--rank-host", self.host(index), "--rank-token-file", str(secret)]
        tls = ["--rank-tls-dir", str(self.tls)] if self.tls else []
        return [*world, *where, *tls, "--rank-join-seconds", "40", "--threads", "1"]

    def leader(self, join_seconds: float = 40.0) -> Pods:
        return Pods(
            index=0,
            count=self.pods,
            ranks_each=self.each,
            leader=self.host(0),
            port=PORT,
            host=self.host(0),
            token=self.token.encode(),
            join_seconds=join_seconds,
            tls=self.tls,
        )

    @contextmanager
    def worker(self, index: int) -> Iterator[Server]:
        """A pod that follows, as the process that its container would run."""
        log = self.folder / f"pod-{index}.log"
        words = command(self.engine, *self.options(index))
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, stderr=output, stdout=output, env={**os.environ, **self.env(index)}
            )
        try:
            yield Server(process, 0, log, "")
        finally:
            process.kill()
            process.wait(DEADLINE)

    @contextmanager
    def served(self) -> Iterator[tuple[Server, list[Server]]]:
        """All of it: the leader's server, and the other pods."""
        with ExitStack() as stack:
            workers = [stack.enter_context(self.worker(index)) for index in range(1, self.pods)]
            options = self.options(0)
            leader = serving(self.engine, self.folder, *options, **self.env(0))
            yield stack.enter_context(leader), workers


def group_of(engine: Path, folder: Path, pods: int = 2, each: int = 1) -> Group:
    return Group(engine, folder, pods, each, next(_numbers))


@pytest.mark.parametrize("split", SPLITS)
def test_pods_give_the_reference_s_tokens(split: str, engines: Engines, tmp_path: Path) -> None:
    checkpoint, options, pods, each, tls = SPLITS[split]
    with np.load(GOLDENS / checkpoint / "expected.npz") as data:
        prompts, greedy = data["prompt"].tolist(), data["greedy"].tolist()
    path = engines(checkpoint, "--kv-page-size", "7", *options)
    group = group_of(path, tmp_path, pods, each)
    group.tls = Authority("group").write(tmp_path / "tls") if tls else None
    with ExitStack() as stack:
        workers = [stack.enter_context(group.worker(index)) for index in range(1, pods)]
        engine = engine_of(group)
        try:
            assert together(engine, prompts, len(greedy[0])) == greedy
        finally:
            engine.close()
        assert [worker.process.wait(DEADLINE) for worker in workers] == [1] * (pods - 1)


def test_a_rank_that_is_lost_elsewhere_ends_all_pods(engines: Engines, tmp_path: Path) -> None:
    with group_of(engines("tiny-kjv", *TP2), tmp_path).served() as (leader, (worker,)):
        ranks = [*children(leader), *children(worker)]
        assert len(ranks) == 2
        stream = leader.client.completions.create(
            model="model", prompt="And God said", max_tokens=900, stream=True, temperature=0
        )
        next(iter(stream))
        os.kill(ranks[1], signal.SIGKILL)
        wait_until(lambda: "rank 1" in leader.liveness(), "liveness is red and names the rank")
        assert "rank 1 was ended by SIGKILL" in leader.log.read_text() + leader.liveness()
        assert [one.process.wait(DEADLINE) for one in (worker, leader)] == [1, 1]
        assert "GroupLost: rank 1 was ended by SIGKILL" in worker.log.read_text()
        assert not any(map(alive, ranks))


def test_pods_that_are_told_to_stop_finish_what_runs(engines: Engines, tmp_path: Path) -> None:
    """Kubernetes tells all of them at once."""
    with group_of(engines("tiny-kjv", *TP2), tmp_path).served() as (leader, (worker,)):
        whole = leader.client.completions.create(
            model="model", prompt="And God said", max_tokens=200, temperature=0
        )
        stream = leader.client.completions.create(
            model="model", prompt="And God said", max_tokens=200, stream=True, temperature=0
        )
        pieces = [next(iter(stream)).choices[0].text]
        for one in (worker, leader):
            one.process.terminate()
        pieces += [chunk.choices[0].text for chunk in stream]
        assert "".join(pieces) == whole.choices[0].text
        assert [one.process.wait(DEADLINE) for one in (leader, worker)] == [0, 0]


def test_who_does_not_belong_is_refused_and_the_group_comes_together(
    engines: Engines, tmp_path: Path
) -> None:
    group = group_of(engines("llama3", *TP2), tmp_path)
    with ExitStack() as stack:
        starting = Thread(target=lambda: engine_of(group).close())
        starting.start()
        stack.callback(starting.join)
        wait_until(lambda: shout(group.host(0)), "the leader listens")
        others = {
            "the token differs": replace(group, token="another"),
            "the engine is": replace(group, engine=engines("tiny-kjv", *TP2)),
            "the use of --rank-tls-dir is": replace(
                group, tls=Authority("group").write(tmp_path / "tls")
            ),
        }
        strangers = {}
        for number, (why, wrong) in enumerate(others.items()):
            wrong.folder = tmp_path / str(number)
            wrong.folder.mkdir()
            strangers[why] = stack.enter_context(wrong.worker(1))
        for why, refused in strangers.items():
            assert refused.process.wait(DEADLINE) == 2
            assert f"RankFailed: this pod was refused: {why}" in refused.log.read_text()
        with group.worker(1) as right:
            assert right.process.wait(DEADLINE) == 1
            assert "the leader ended the group" in right.log.read_text()


def test_a_pod_with_a_strangers_certificate_gets_no_part(engines: Engines, tmp_path: Path) -> None:
    group = group_of(engines("llama3", *TP2), tmp_path)
    group.tls = Authority("group").write(tmp_path / "tls")
    stranger = replace(group, tls=Authority("group").write(tmp_path / "stranger"))
    with stranger.worker(1) as worker:
        with pytest.raises(RankFailed, match="connection to rank 1 cannot be sealed"):
            engine_of(group)
        assert worker.process.wait(DEADLINE) == 1


def test_a_pod_that_does_not_come_is_named(engines: Engines, tmp_path: Path) -> None:
    group = group_of(engines("llama3", *TP2), tmp_path)
    tuning = Tuning(threads=1, pods=group.leader(join_seconds=0.1))
    with pytest.raises(RankFailed, match=r"not within 0.1 s: pod 1; see the logs"):
        assemble(open_engine(group.engine, 2), tuning)


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        (["--world-size", "4", "--ranks-per-pod", "1"], {}, "2 pods (LWS_GROUP_SIZE) of 1 are 2"),
        (["--world-size", "2"], {}, "LWS_GROUP_SIZE is 2: give --ranks-per-pod"),
        (
            ["--world-size", "2", "--ranks-per-pod", "1"],
            {"LWS_WORKER_INDEX": "7"},
            "an index from 0 to 1",
        ),
        (
            ["--world-size", "2", "--ranks-per-pod", "1"],
            {"LWS_GROUP_SIZE": "two"},
            "LWS_GROUP_SIZE is 'two'",
        ),
    ],
)
def test_a_group_that_is_no_group_is_refused(
    options: list[str],
    env: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**group_of(tmp_path, tmp_path).env(1), **env}.items():
        monkeypatch.setenv(name, value)
    assert main(["--engine", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def engine_of(group: Group) -> Engine:
    directory = open_engine(group.engine, group.pods * group.each)
    memory = 256 * directory.manifest.kv_bytes_per_token
    return assemble(directory, Tuning(threads=1, kv_memory=memory, pods=group.leader()))


def shout(host: str) -> bool:
    """Say what no pod would say; whether somebody listens."""
    try:
        with socket.create_connection((host, PORT), timeout=DEADLINE) as end:
            end.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return True
    except ConnectionRefusedError:
        return False
