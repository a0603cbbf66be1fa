"""Looks at autoscaled deployments: who is asked, what it comes to, and what is remembered."""

import asyncio
from typing import Any

import pytest

from pitcrew_operator.ask.dcgm import PodName
from pitcrew_operator.ask.http import Http, NoAnswer
from pitcrew_operator.ask.loads import Loads
from pitcrew_operator.ask.members import members
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, POD
from pitcrew_operator.plan.autoscaling.looks import Replica
from pitcrew_operator.store import Store
from tests.unit.operator.factories import (
    ENGINE_STATUS,
    NAMESPACE,
    deployment_raw,
    engine_raw,
    pod_raw,
)

EVERY = 15.0
ONE, TWO = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


def metrics(
    waiting: int = 0, running: int = 0, kv: float = 0.0, fast: int = 0, slow: int = 0
) -> str:
    """A pod's text, with so many requests that took up to 0.1 s and up to 2 s."""
    return (
        f"pitcrew_requests_waiting {waiting}\npitcrew_requests_running {running}\n"
        f"pitcrew_kv_cache_usage_ratio {kv}\n"
        f'pitcrew_time_to_first_token_seconds_bucket{{le="0.1"}} {fast}\n'
        f'pitcrew_time_to_first_token_seconds_bucket{{le="2.0"}} {fast + slow}\n'
        f'pitcrew_time_to_first_token_seconds_bucket{{le="+Inf"}} {fast + slow}\n'
        f"pitcrew_time_to_first_token_seconds_count {fast + slow}\n"
        f"pitcrew_time_to_first_token_seconds_sum {fast * 0.05 + slow}\n"
    )


class Pods(Http):
    """Answers at the addresses that it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.asked: list[str] = []
        self.silent: str | None = None
        """The one that takes a request and never answers."""

    async def text(self, url: str, body: object = None, key: str | None = None) -> str:
        address = url.removesuffix("/metrics")
        self.asked.append(address)
        if address == self.silent:
            await asyncio.Event().wait()
        if address not in self.texts:
            raise NoAnswer(f"no answer from {url}")
        return self.texts[address]


class Exporters:
    """Tells what it is told to."""

    def __init__(self) -> None:
        self.usage: dict[PodName, list[float]] = {}
        self.asked: list[set[PodName]] = []

    async def refresh(self, pods: set[PodName]) -> None:
        self.asked.append(pods)


class Scene:
    """An operator's view, its pods, and a clock."""

    def __init__(self, *, gpus: bool = True, **autoscaling: object) -> None:
        self.store = Store(lambda *_: None)
        self.pods, self.exporters, self.now = Pods(), Exporters(), 1000.0
        self.woken: list[tuple[str, str]] = []
        self.loads = Loads(
            self.store,
            self.exporters,
            self.pods,
            EVERY,
            lambda namespace, name: self.woken.append((namespace, name)),
            lambda: self.now,
        )
        named = autoscaling or ({"gpuUtilization": {}, "kvCacheUsage": {}} if gpus else {})
        spec = {"replicas": None, "autoscaling": {"maxReplicas": 4, **named}}
        self.store.put(DEPLOYMENT, deployment_raw(spec))
        capability = {"computeCapability": "sm90"} if gpus else {}
        self.store.put(ENGINE, engine_raw(status={"engine": ENGINE_STATUS | capability}))

    def pod(self, name: str, ip: str, ready: str = "True", **labels: str) -> None:
        own = {"pitcrew.dev/deployment": "chat"} if "pitcrew.dev/worker-of" not in labels else {}
        conditions = [{"type": "Ready", "status": ready}]
        self.store.put(POD, pod_raw(name, own | labels, podIP=ip, conditions=conditions))

    async def look(self, seconds: float = EVERY) -> tuple[Replica, ...]:
        """One look later."""
        self.now += seconds
        await self.loads.look()
        return self.loads.looks(NAMESPACE, "chat")[0].replicas


def group(index: int, **more: str) -> dict[str, str]:
    return {
        "leaderworkerset.sigs.k8s.io/name": "chat-1",
        "leaderworkerset.sigs.k8s.io/group-index": str(index),
        **more,
    }


async def test_ready_replicas_are_measured_and_their_deployment_is_looked_at() -> None:
    scene = Scene()
    scene.pod("chat-1", "10.0.0.1")
    scene.pod("chat-2", "10.0.0.2", ready="False")
    scene.pods.texts[ONE] = metrics(3, 8, 0.5)
    scene.exporters.usage[PodName(NAMESPACE, "chat-1")] = [90.0, 70.0]
    assert await scene.look() == (Replica(gpu=80.0, waiting=3.0, running=8.0, kv=50.0),)
    assert scene.pods.asked == [ONE]
    assert scene.woken == [(NAMESPACE, "chat")]


async def test_who_is_not_autoscaled_is_not_asked() -> None:
    scene = Scene()
    scene.store.put(DEPLOYMENT, deployment_raw({"replicas": 1}, resourceVersion="7"))
    scene.pod("chat-1", "10.0.0.1")
    await scene.loads.look()
    assert (scene.pods.asked, scene.exporters.asked, scene.woken) == ([], [], [])
    assert scene.loads.looks(NAMESPACE, "chat") == ()


async def test_pods_are_not_asked_where_gpus_alone_vote() -> None:
    scene = Scene(gpuUtilization={"targetPercent": 50})
    scene.pod("chat-1", "10.0.0.1")
    scene.exporters.usage[PodName(NAMESPACE, "chat-1")] = [90.0]
    assert await scene.look() == (Replica(gpu=90.0),)
    assert scene.pods.asked == []


async def test_a_pod_that_tells_nonsense_tells_nothing() -> None:
    scene = Scene(gpus=False)
    scene.pod("chat-1", "10.0.0.1")
    scene.pod("chat-2", "10.0.0.2")
    odd = "pitcrew_time_to_first_token_seconds_bucket 5\n"
    scene.pods.texts |= {ONE: metrics(1), TWO: odd}
    assert await scene.look() == (Replica(None, 1.0, 0.0, 0.0),)


async def test_exporters_are_not_asked_about_cpus() -> None:
    scene = Scene(gpus=False)
    scene.pod("chat-1", "10.0.0.1")
    scene.pods.texts[ONE] = metrics(1)
    assert await scene.look() == (Replica(None, 1.0, 0.0, 0.0),)
    assert scene.exporters.asked == []


async def test_the_gpus_of_a_group_are_averaged_and_only_its_leader_is_asked() -> None:
    scene = Scene()
    scene.pod("chat-0", "10.0.0.1", **group(0))
    scene.pod("chat-0-1", "10.0.0.9", **group(0, **{"pitcrew.dev/worker-of": "chat"}))
    scene.pod("chat-1", "10.0.0.2", **group(1))
    scene.pods.texts |= {ONE: metrics(), TWO: metrics()}
    scene.exporters.usage |= {
        PodName(NAMESPACE, "chat-0"): [100.0],
        PodName(NAMESPACE, "chat-0-1"): [50.0],
        PodName(NAMESPACE, "chat-1"): [30.0],
    }
    assert [replica.gpu for replica in await scene.look()] == [75.0, 30.0]
    assert sorted(scene.pods.asked) == [ONE, TWO]
    scene.exporters.usage.pop(PodName(NAMESPACE, "chat-0-1"))
    for _ in range(3):
        told = await scene.look()
    assert [replica.gpu for replica in told] == [None, 30.0], "half of a group is no group"


def test_pods_that_end_are_no_replicas() -> None:
    ending = pod_raw(
        "chat-1",
        {"pitcrew.dev/deployment": "chat"},
        podIP="10.0.0.1",
        conditions=[{"type": "Ready", "status": "True"}],
    )
    assert len(members([ending])) == 1
    ending["metadata"]["deletionTimestamp"] = "2026-11-01T12:00:00Z"
    assert members([ending]) == ()


async def test_one_answer_that_is_late_is_no_news() -> None:
    scene = Scene()
    scene.pod("chat-1", "10.0.0.1")
    scene.pods.texts[ONE] = metrics(2)
    scene.exporters.usage[PodName(NAMESPACE, "chat-1")] = [60.0]
    await scene.look()
    scene.pods.texts.clear()
    scene.exporters.usage.clear()
    told = [(await scene.look())[0] for _ in range(4)]
    assert [(replica.gpu, replica.waiting) for replica in told] == [
        (60.0, 2.0),
        (60.0, 2.0),
        (None, None),
        (None, None),
    ]


async def test_a_replica_that_was_never_measured_is_left_out_for_a_while() -> None:
    scene = Scene()
    scene.pod("chat-1", "10.0.0.1")
    scene.pods.texts[ONE] = metrics()
    assert await scene.look() == ()
    assert scene.loads.looks(NAMESPACE, "chat")[0].young == 1
    for _ in range(6):
        told = await scene.look()
    assert told == (Replica(None, 0.0, 0.0, 0.0),)


@pytest.mark.parametrize(("percentile", "seconds"), [(50, 0.0625), (95, 1.525)])
async def test_times_are_those_of_the_window_over_all_replicas(
    percentile: int, seconds: float
) -> None:
    asked = {"targetMilliseconds": 500, "percentile": percentile, "windowSeconds": 30}
    scene = Scene(gpus=False, timeToFirstToken=asked)
    scene.pod("chat-1", "10.0.0.1")
    scene.pod("chat-2", "10.0.0.2")
    scene.pods.texts |= {ONE: metrics(fast=100, slow=100), TWO: metrics()}
    await scene.look()
    assert scene.loads.looks(NAMESPACE, "chat")[0].first_token == 0.0
    scene.pods.texts |= {ONE: metrics(fast=140, slow=110), TWO: metrics(fast=40, slow=10)}
    await scene.look()
    assert scene.loads.looks(NAMESPACE, "chat")[0].first_token == pytest.approx(seconds)
    await scene.look(30)
    assert scene.loads.looks(NAMESPACE, "chat")[0].first_token == 0.0, "nobody asked in this time"
    scene.pods.texts[TWO] = metrics(fast=1)  # its container was restarted
    await scene.look()
    assert scene.loads.looks(NAMESPACE, "chat")[0].first_token == 0.0
    scene.pods.texts.pop(ONE)
    await scene.look(60)
    assert scene.loads.looks(NAMESPACE, "chat")[0].first_token is None


async def test_looks_are_kept_for_the_window_and_one_before() -> None:
    behavior: dict[str, Any] = {"scaleDown": {"stabilizationWindowSeconds": 60}}
    scene = Scene(gpus=False, behavior=behavior)
    for _ in range(20):
        await scene.look()
    ages = [look.age for look in scene.loads.looks(NAMESPACE, "chat")]
    assert ages == [0.0, 15.0, 30.0, 45.0, 60.0]
    scene.now += 5
    assert scene.loads.looks(NAMESPACE, "chat")[0].age == 5.0


async def test_a_namesake_begins_anew() -> None:
    scene = Scene(gpus=False)
    await scene.look()
    await scene.look()
    raw = deployment_raw({"replicas": None, "autoscaling": {"maxReplicas": 2}}, uid="another")
    scene.store.put(DEPLOYMENT, raw)
    await scene.look()
    assert len(scene.loads.looks(NAMESPACE, "chat")) == 1


@pytest.mark.looptime
async def test_looks_come_at_an_interval_while_somebody_decides() -> None:
    scene, loop = Scene(gpus=False), asyncio.get_running_loop()
    leads, looked = True, list[float]()
    loads = Loads(
        scene.store,
        scene.exporters,
        scene.pods,
        EVERY,
        lambda namespace, name: looked.append(loop.time() - begun),
        loop.time,
    )
    scene.pod("chat-1", "10.0.0.1")
    scene.pods.silent = ONE
    begun = loop.time()
    task = asyncio.create_task(loads.run(lambda: leads))
    await asyncio.sleep(40)
    assert looked == [3.0, 18.0, 33.0], "who does not answer within 3 s is not waited for"
    leads = False
    await asyncio.sleep(60)
    assert len(looked) == 3
    assert loads.looks(NAMESPACE, "chat") == ()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
