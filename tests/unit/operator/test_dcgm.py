"""GPU usage as DCGM exporters tell it, up to the column of `kubectl get`."""

from typing import Any

import pytest

from pitcrew_operator.ask.dcgm import PodName, average, readings
from pitcrew_operator.ask.gpu_usage import GpuUsage
from pitcrew_operator.ask.http import Http, NoAnswer
from pitcrew_operator.errors import ClusterError, Rejected, Unavailable
from pitcrew_operator.kinds import POD, Kind, Raw
from pitcrew_operator.plan.usage import told
from tests.property.operator.simulation import SimulatedCluster
from tests.property.operator.world import CHAT, HUB, World
from tests.unit.operator.factories import CONFIG, pod_raw

EXPORTER = """\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",modelName="NVIDIA H100 80GB HBM3",pod="chat-1",namespace="models"} 90
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b",modelName="NVIDIA H100 80GB HBM3",pod="chat-1",namespace="models"} 70
DCGM_FI_DEV_GPU_UTIL{gpu="2",UUID="GPU-c",modelName="NVIDIA H100 80GB HBM3"} 10
# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-a",pod="chat-1",namespace="models"} 0.5
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="3",UUID="GPU-d",GPU_I_ID="1",pod="chat-2",namespace="models"} 0.25
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",pod="chat-1",namespace="models"} 70000
"""
ONE, TWO = PodName("models", "chat-1"), PodName("models", "chat-2")


def test_each_gpu_counts_once_and_slices_by_their_engines() -> None:
    assert readings(EXPORTER) == {ONE: [90.0, 70.0], TWO: [25.0]}


def test_labels_that_a_scrape_has_renamed_are_found() -> None:
    text = (
        'DCGM_FI_DEV_GPU_UTIL{gpu="0",pod="exporter-x",namespace="gpu-operator",'
        'exported_pod="chat-1",exported_namespace="models"} 12\n'
    )
    assert readings(text) == {ONE: [12.0]}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "2147483632", "9223372036854775792", "101"])
def test_what_is_no_percentage_is_left_out(value: str) -> None:
    busy = 'DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",pod="chat-1",namespace="models"} '
    assert readings(f"{busy}{value}\n") == {}
    slice_ = busy.replace("DEV_GPU_UTIL", "PROF_GR_ENGINE_ACTIVE")
    assert readings(f"{busy}{value}\n{slice_}0.5\n") == {ONE: [50.0]}


def test_what_is_no_exposition_is_an_error() -> None:
    with pytest.raises(ValueError, match="gpu"):
        readings("DCGM_FI_DEV_GPU_UTIL{gpu= 3\n")


def test_all_gpus_of_all_pods_weigh_the_same() -> None:
    usage = readings(EXPORTER)
    assert average(usage, [ONE, TWO]) == pytest.approx((90 + 70 + 25) / 3)
    assert average(usage, [PodName("models", "elsewhere")]) is None


@pytest.mark.parametrize(
    ("before", "percent", "after"),
    [
        (None, 83.4, 85),
        (85, 83.4, 85),
        (85, 81.0, 85),  # a small change is not worth a write
        (85, 79.0, 80),
        (80, None, None),
        (None, 0.0, 0),
    ],
)
def test_the_status_changes_in_steps(before: int | None, percent: float | None, after: int) -> None:
    assert told(before, percent) == after


class Exporters(Http):
    """Answers at the addresses that it knows."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self._texts = texts
        self.asked: list[str] = []

    async def text(self, url: str, body: object = None) -> str:
        self.asked.append(url)
        if url not in self._texts:
            raise NoAnswer(f"no answer from {url}")
        return self._texts[url]


def exporter(name: str, ip: str, ready: str = "True") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    return pod_raw(name, {"app": "nvidia-dcgm-exporter"}, podIP=ip, conditions=conditions)


async def test_every_exporter_that_answers_is_read_and_its_pods_are_looked_at() -> None:
    cluster, woken = SimulatedCluster(), list[PodName]()
    for pod in (
        exporter("one", "10.0.0.1"),
        exporter("silent", "fd00::2"),
        exporter("starting", "10.0.0.3", ready="False"),
        exporter("broken", "10.0.0.4"),
    ):
        cluster.create(POD, pod)
    texts = {
        "http://10.0.0.1:9400/metrics": EXPORTER,
        "http://10.0.0.3:9400/metrics": EXPORTER.replace("chat-1", "other"),
        "http://10.0.0.4:9400/metrics": "<html>{",
    }
    gpus = GpuUsage(cluster, Exporters(texts), CONFIG, woken.append)
    await gpus.look()
    assert gpus.usage == {ONE: [90.0, 70.0], TWO: [25.0]}
    assert sorted(woken) == [ONE, TWO]
    texts.clear()
    await gpus.look()
    assert gpus.usage == {}
    assert sorted(woken) == [ONE, ONE, TWO, TWO]  # what is no longer told is news, too


async def test_exporters_of_the_pods_in_question_are_read_again() -> None:
    cluster, now = SimulatedCluster(), [0.0]
    for name, ip in (("one", "10.0.0.1"), ("two", "10.0.0.2")):
        cluster.create(POD, exporter(name, ip))
    line = 'DCGM_FI_DEV_GPU_UTIL{{UUID="a",pod="{}",namespace="models"}} {}\n'
    texts = {
        "http://10.0.0.1:9400/metrics": line.format("chat-1", 10),
        "http://10.0.0.2:9400/metrics": line.format("chat-2", 20),
    }
    http = Exporters(texts)
    gpus = GpuUsage(cluster, http, CONFIG, lambda _: None, lambda: now[0])
    await gpus.refresh({ONE})
    assert gpus.usage == {ONE: [10.0], TWO: [20.0]}
    http.asked.clear()
    texts["http://10.0.0.1:9400/metrics"] = line.format("chat-1", 50)
    await gpus.refresh({ONE})
    assert gpus.usage == {ONE: [50.0], TWO: [20.0]}
    assert http.asked == ["http://10.0.0.1:9400/metrics"]
    # The exporter is another pod now: it is found, but not looked for all the time.
    texts["http://10.0.0.3:9400/metrics"] = texts.pop("http://10.0.0.1:9400/metrics")
    cluster.create(POD, exporter("one-again", "10.0.0.3"))
    await gpus.refresh({ONE})
    assert gpus.usage == {TWO: [20.0]}
    now[0] += 10.0
    await gpus.refresh({ONE})
    assert gpus.usage == {ONE: [50.0], TWO: [20.0]}


class Unreadable(SimulatedCluster):
    """Lists no pods once there is a problem."""

    problem: ClusterError | None = None

    async def select(self, kind: Kind, namespace: str | None, selector: str) -> list[Raw]:
        if self.problem is not None:
            raise self.problem
        return await super().select(kind, namespace, selector)


@pytest.mark.parametrize(
    ("problem", "age", "counts"),
    [
        (Unavailable("away"), 120, True),
        (Unavailable("away"), 181, False),
        (Rejected(403, "forbidden"), 1, False),
    ],
)
async def test_readings_count_until_they_are_stale(
    problem: ClusterError, age: float, counts: bool
) -> None:
    cluster, now = Unreadable(), 0.0
    cluster.create(POD, exporter("one", "10.0.0.1"))
    texts = {"http://10.0.0.1:9400/metrics": EXPORTER}
    gpus = GpuUsage(cluster, Exporters(texts), CONFIG, lambda _: None, clock=lambda: now)
    await gpus.pause_after_a_look()
    cluster.problem, now = problem, age
    await gpus.pause_after_a_look()
    assert bool(gpus.usage) is counts


async def test_nobody_is_asked_where_none_is_wanted() -> None:
    config = CONFIG.model_copy(update={"dcgm_selector": "-"})
    cluster = SimulatedCluster()
    cluster.create(POD, exporter("one", "10.0.0.1"))
    gpus = GpuUsage(
        cluster, Exporters({"http://10.0.0.1:9400/metrics": EXPORTER}), config, lambda _: None
    )
    await gpus.look()
    assert gpus.usage == {}


def test_the_status_tells_how_busy_the_ready_pods_are() -> None:
    world = World(HUB, limit=0)
    for _ in range(8):
        world.work_on()
    assert "gpuUtilizationPercent" not in world.status(CHAT)
    labels = {"app.kubernetes.io/managed-by": "pitcrew", "pitcrew.dev/deployment": "chat"}
    for name, ready in (("chat-1", "True"), ("chat-2", "False")):
        conditions = [{"type": "Ready", "status": ready}]
        world.cluster.create(POD, pod_raw(name, labels, conditions=conditions))
    world.gpus |= {ONE: [90.0, 72.0], TWO: [1.0]}
    world.settle()
    assert world.status(CHAT)["gpuUtilizationPercent"] == 80
    world.gpus.clear()
    world.settle()
    assert "gpuUtilizationPercent" not in world.status(CHAT)
