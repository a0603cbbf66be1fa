"""The manifests against golden files: a change of what we create is a change that one reads.

To accept a change: `PITCREW_WRITE_GOLDENS=1 pytest tests/unit/operator/test_manifests.py`.
"""

import json
from dataclasses import replace
from typing import Any

import pytest

from pitcrew_operator.config import Config
from pitcrew_operator.gpus import Driver, GpuPool
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.build_job import build_job
from pitcrew_operator.manifests.collect_job import collect_job
from pitcrew_operator.manifests.disruption import disruption_budget
from pitcrew_operator.manifests.inference_pool import pool_manifest
from pitcrew_operator.manifests.resolve_job import resolve_job
from pitcrew_operator.manifests.service import headless_manifest, service_manifest, service_url
from pitcrew_operator.manifests.store import store_manifest
from pitcrew_operator.order import Order
from pitcrew_operator.quantity import parse_quantity
from pitcrew_operator.views import Claim, Deployment
from tests.unit.operator.factories import (
    CONFIG,
    NAMESPACE,
    answer,
    deployment,
    engine,
    revision,
    workload_manifest,
)
from tests.unit.operator.goldens import assert_golden

STORE = Claim("pitcrew-engines", "uid-store")

HUB_SPEC = {
    "model": {
        "name": "llama",
        "huggingFace": {
            "repo": "meta-llama/Llama-3.2-1B",
            "revision": "v1",
            "endpoint": "https://hub.example",
            "tokenSecretRef": {"name": "hub", "key": "token"},
        },
    },
    "shapes": {"maxBatchSize": 4, "maxSequenceLength": 1024},
    "build": {
        "image": "example/builder:2",
        "resources": {"requests": {"cpu": 4, "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "serviceAccountName": "builds",
        "imagePullSecrets": [{"name": "pull"}],
        "activeDeadlineSeconds": 600,
    },
}
S3_SPEC = {
    "model": {
        "s3": {
            "bucket": "models",
            "prefix": "llama/3.2-1b",
            "endpoint": "https://s3.example",
            "region": "eu-1",
            "credentialsSecretRef": {"name": "s3-keys"},
        },
    },
}
SERVE_SPEC = {
    "servedModelName": "my/llama",
    "worldSize": 1,
    "runtime": {
        "image": "example/runtime:2",
        "kvMemory": "1.5Gi",
        "drainSeconds": 60,
        "startupSeconds": 300,
        "resources": {"limits": {"memory": "2Gi"}},
        "nodeSelector": {"zone": "a"},
    },
    "service": {"port": 8080, "type": "NodePort"},
}


GPU_SPEC = {
    "model": HUB_SPEC["model"],
    "target": "tensorrt",
    "precision": "bf16",
    "tensorrt": {"computeCapability": "sm90"},
    "build": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "zone": "a"}},
}
ON_H100 = {
    "cuda": "13.0",
    "worldSize": 2,
    "computeCapability": "sm90",
    "gpuProduct": "NVIDIA-H100-80GB-HBM3",
}
ROUTED_SPEC = {
    "service": {
        "annotations": {"example.com/internal": "true"},
        "sessionAffinity": {"timeoutSeconds": 600},
        "headless": True,
    },
    "inferencePool": {"endpointPickerRef": {"name": "picker", "failureMode": "FailOpen"}},
}
POOL = GpuPool(
    product="NVIDIA-H100-80GB-HBM3",
    capability="sm90",
    driver=Driver(580, (13, 0)),
    memory=81559 << 20,
    total=8,
    selector={
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "nvidia.com/cuda.driver.major": "580",
    },
)
ANSWER = answer()


def order(spec: dict[str, Any] | None = None, **metadata: object) -> Order:
    return Order(engine(spec, **metadata), CONFIG, STORE)


def on_gpus() -> Order:
    return replace(order(GPU_SPEC), pool=POOL)


def built(asked: Order, *, queued: bool = False) -> dict[str, Any]:
    return build_job(asked, ANSWER, queued=queued)


def pool(owner: Deployment) -> dict[str, Any]:
    assert owner.spec.inference_pool is not None
    return pool_manifest(owner, owner.spec.inference_pool)


CASES = {
    "job-volume": lambda: built(order()),
    "job-hub": lambda: built(order(HUB_SPEC)),
    "job-s3": lambda: built(order(S3_SPEC), queued=True),
    "job-gpu": lambda: built(on_gpus()),
    "resolve-hub": lambda: resolve_job(order(HUB_SPEC)),
    "resolve-gpu": lambda: resolve_job(on_gpus()),
    "collect": lambda: collect_job(engine(), STORE, ["b" * 64, "a" * 64], CONFIG),
    "store": lambda: store_manifest(NAMESPACE, CONFIG),
    "deployment": lambda: workload_manifest(deployment()),
    "deployment-full": lambda: workload_manifest(deployment(SERVE_SPEC)),
    "deployment-gpu": lambda: workload_manifest(deployment(), **ON_H100),
    "group": lambda: workload_manifest(
        deployment({"ranksPerPod": 2}), **ON_H100 | {"worldSize": 8}
    ),
    "service": lambda: service_manifest(deployment()),
    "service-sticky": lambda: service_manifest(deployment(ROUTED_SPEC)),
    "service-headless": lambda: headless_manifest(deployment(ROUTED_SPEC)),
    "beside-pool": lambda: pool(deployment(ROUTED_SPEC)),
    "beside-budget": lambda: disruption_budget(deployment()) or {},
    "service-full": lambda: service_manifest(deployment(SERVE_SPEC)),
}


@pytest.mark.parametrize("name", CASES)
def test_manifest_is_golden(name: str) -> None:
    assert_golden(name, CASES[name]())


@pytest.mark.parametrize(
    "name",
    [name for name in CASES if name.split("-")[0] not in ("store", "service", "beside", "group")],
)
def test_pods_are_hardened(name: str) -> None:
    pod = CASES[name]()["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def arguments(job: dict[str, Any]) -> list[str]:
    words: list[str] = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return words


def request(job: dict[str, Any]) -> dict[str, Any]:
    words = arguments(job)
    document: dict[str, Any] = json.loads(words[words.index("--spec-json") + 1])
    return document


def test_a_look_asks_for_the_branch_and_a_build_for_its_commit() -> None:
    asked = order(HUB_SPEC)
    assert request(resolve_job(asked))["source"] == {
        "kind": "huggingFace",
        "repo": "meta-llama/Llama-3.2-1B",
        "revision": "v1",
        "endpoint": "https://hub.example",
    }
    assert request(built(asked))["source"]["revision"] == ANSWER.commit
    assert request(built(asked))["shapes"]["maxBatchSize"] == 4


def test_adapters_are_pinned_too() -> None:
    adapters = [{"huggingFace": {"repo": "a/b"}}, {"huggingFace": {"repo": "c/d"}}]
    asked = order({**HUB_SPEC, "adapters": adapters})
    pinned = asked.pinned(answer(adapterCommits=["1" * 40, "2" * 40]))
    assert [each.source.revision for each in pinned.adapters] == ["1" * 40, "2" * 40]  # type: ignore[union-attr]


def test_a_look_takes_no_gpu_nor_a_node_that_has_one() -> None:
    pod = resolve_job(on_gpus())["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"zone": "a"}
    assert "nvidia.com/gpu" not in json.dumps(pod["containers"][0]["resources"])
    words = arguments(resolve_job(on_gpus()))
    assert words[words.index("--gpu-memory") + 1] == str(81559 << 20)


def test_a_plan_is_built_on_the_machines_it_is_for() -> None:
    job = built(on_gpus())
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {**POOL.selector, "zone": "a"}
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert job["spec"]["template"]["metadata"]["labels"]["pitcrew.dev/gpu-build"] == "true"
    assert request(job)["platform"] == POOL.platform


CHANGES: dict[str, Order] = {
    "spec": order({"shapes": {"maxBatchSize": 1}}),
    "store": replace(order(), store=Claim("pitcrew-engines", "uid-of-a-new-volume")),
    "source": replace(order(), source=Claim("checkpoints", "uid-of-a-new-volume")),
    "image": replace(order(), config=CONFIG.model_copy(update={"builder_image": "b:2"})),
    "trigger": order({"rebuildPolicy": {"trigger": "again"}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_may_lead_to_another_engine_leads_to_another_look(change: str) -> None:
    assert CHANGES[change].look_name != order().look_name


@pytest.mark.parametrize("change", ["image", "trigger"])
def test_the_same_answer_is_the_same_build_whoever_asks(change: str) -> None:
    hub = order(HUB_SPEC)
    other = replace(CHANGES[change], engine=replace(hub.engine, meta=CHANGES[change].engine.meta))
    assert other.job_name(ANSWER) == hub.job_name(ANSWER)
    assert order(HUB_SPEC, uid="another", name="twin").job_name(ANSWER) == hub.job_name(ANSWER)


def test_other_thresholds_are_another_build() -> None:
    prompts = {"url": "https://prompts.example"}
    names_ = {
        order({"proof": {"prompts": prompts, "maxKlDivergence": limit}}).job_name(ANSWER)
        for limit in ("0.1", "0.2")
    }
    assert len(names_) == 2


def test_what_stands_for_an_id_means_nothing_in_another_place() -> None:
    inexact = answer(engineId=None, tag=None)
    there = order({"model": {"volume": {"claimName": "checkpoints", "path": "other"}}})
    assert there.job_name(inexact) != order().job_name(inexact)
    assert there.job_name(ANSWER) == order().job_name(ANSWER)


def test_what_does_not_decide_an_engine_decides_no_look() -> None:
    resources = {"build": {"resources": {"limits": {"memory": "1Gi"}}}}
    assert order(annotations={"team": "a"}).look_name == order().look_name
    assert order(resources).look_name == order().look_name


@pytest.mark.parametrize("engine_name", ["a", "a" * 63, "with.dots.in.it", "x-" * 31 + "x"])
def test_job_names_are_valid_labels(engine_name: str) -> None:
    name = names.job_name(engine_name, "build", "0123abcd")
    assert len(name) <= 63
    assert name.endswith("-build-0123abcd")
    assert "." not in name
    assert "--build" not in name


def test_store_class_is_left_open_unless_set() -> None:
    named = Config(builder_image="b", runtime_image="r", store_class="fast")
    assert "storageClassName" not in store_manifest(NAMESPACE, CONFIG)["spec"]
    assert store_manifest(NAMESPACE, named)["spec"]["storageClassName"] == "fast"


def test_replicas_absent_means_one() -> None:
    document = workload_manifest(deployment({"replicas": None}))
    assert document["spec"]["replicas"] == 1


def test_drain_fits_in_the_grace_period() -> None:
    pod = CASES["deployment-full"]()["spec"]["template"]["spec"]
    words = pod["containers"][0]["args"]
    times = [int(words[words.index(f"--{name}-seconds") + 1]) for name in ("withdraw", "drain")]
    assert times[1] == 60
    assert pod["terminationGracePeriodSeconds"] > sum(times)


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


def serving_pod(runtime: dict[str, Any], **engine: object) -> dict[str, Any]:
    return pod_of(workload_manifest(deployment({"runtime": runtime}), **engine))


def test_plans_that_were_not_measured_run_on_any_gpu_of_their_generation() -> None:
    unmeasured = ON_H100 | {"gpuProduct": None, "computeCapability": "sm120"}
    labels = {"nvidia.com/gpu.compute.major": "12", "nvidia.com/gpu.compute.minor": "0"}
    assert serving_pod({}, **unmeasured)["nodeSelector"] == labels


def test_a_user_who_names_gpus_is_believed() -> None:
    chosen = {"nvidia.com/gpu.product": "NVIDIA-H100-NVL", "zone": "a"}
    assert serving_pod({"nodeSelector": chosen}, **ON_H100)["nodeSelector"] == chosen
    slices = {"limits": {"nvidia.com/mig-3g.40gb": 2}}
    container = serving_pod({"resources": slices}, **ON_H100)["containers"][0]
    assert container["resources"] == slices


def test_several_gpus_have_memory_to_share() -> None:
    both = serving_pod({}, **ON_H100 | {"worldSize": 2})
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in both["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in both["containers"][0]["volumeMounts"]
    for alone in (serving_pod({}, **ON_H100 | {"worldSize": 1}), serving_pod({}, worldSize=2)):
        assert "shm" not in json.dumps(alone)


def test_tolerations_join_that_of_the_gpus() -> None:
    own = {"key": "team", "operator": "Exists"}
    keys = [t["key"] for t in serving_pod({"tolerations": [own]}, **ON_H100)["tolerations"]]
    assert keys == ["team", "nvidia.com/gpu"]
    assert "tolerations" not in serving_pod({})


def test_spread_and_priority_are_the_users() -> None:
    zone = {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    pod = serving_pod({"topologySpreadConstraints": [zone], "priorityClassName": "urgent"})
    (spread,) = pod["topologySpreadConstraints"]
    assert spread["topologyKey"] == zone["topologyKey"]
    assert spread["labelSelector"] == {"matchLabels": {"pitcrew.dev/deployment": "chat"}}
    assert pod["priorityClassName"] == "urgent"
    assert "topologySpreadConstraints" not in serving_pod({"topologySpreadConstraints": []})


def group(**spec: object) -> dict[str, Any]:
    made = workload_manifest(deployment(spec), worldSize=4)
    found: dict[str, Any] = made["spec"]["leaderWorkerTemplate"]
    return found


def test_a_replica_of_several_pods_is_a_group() -> None:
    found = group(ranksPerPod=1)
    assert found["size"] == 4
    leader, worker = found["leaderTemplate"], found["workerTemplate"]
    assert leader["metadata"]["labels"]["pitcrew.dev/deployment"] == "chat"
    assert "pitcrew.dev/deployment" not in worker["metadata"]["labels"]
    assert worker["metadata"]["labels"]["pitcrew.dev/worker-of"] == "chat"
    for template in (leader, worker):
        words = template["spec"]["containers"][0]["args"]
        assert words[words.index("--world-size") + 1] == "4"
        assert words[words.index("--ranks-per-pod") + 1] == "1"
        assert words[words.index("--rank-port") + 1] == "8002"
        assert template["spec"]["initContainers"][0]["args"][0] == "verify"
    assert "readinessProbe" in leader["spec"]["containers"][0]
    assert "readinessProbe" not in worker["spec"]["containers"][0]
    assert "topologySpreadConstraints" not in worker["spec"]


def test_pods_of_a_group_share_the_users_secret() -> None:
    secret = {"rankTokenSecretRef": {"name": "ranks", "key": "word"}}
    found = group(ranksPerPod=2, runtime=secret)
    for template in (found["leaderTemplate"], found["workerTemplate"]):
        (container,) = template["spec"]["containers"]
        words = container["args"]
        assert words[words.index("--rank-token-file") + 1] == "/ranks/token"
        assert {"name": "ranks", "mountPath": "/ranks", "readOnly": True} in container[
            "volumeMounts"
        ]
        (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == "ranks"]
        assert volume["secret"]["items"] == [{"key": "word", "path": "token"}]
    assert "ranks" not in json.dumps(serving_pod(secret))


def test_pods_of_a_group_share_the_users_certificates() -> None:
    secret = {"rankTlsSecretRef": {"name": "certificates"}}
    found = group(ranksPerPod=2, runtime=secret)
    for template in (found["leaderTemplate"], found["workerTemplate"]):
        (container,) = template["spec"]["containers"]
        words = container["args"]
        assert words[words.index("--rank-tls-dir") + 1] == "/ranks-tls"
        assert "--rank-token-file" not in words
        assert {"name": "ranks-tls", "mountPath": "/ranks-tls", "readOnly": True} in container[
            "volumeMounts"
        ]
        (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == "ranks-tls"]
        assert volume["secret"] == {"secretName": "certificates"}
    assert "ranks-tls" not in json.dumps(serving_pod(secret))


def test_fields_laid_over_reach_every_pod_of_a_group() -> None:
    found = group(ranksPerPod=2, runtime={"podTemplate": {"spec": {"hostNetwork": True}}})
    assert found["leaderTemplate"]["spec"]["hostNetwork"] is True
    assert found["workerTemplate"]["spec"]["hostNetwork"] is True


@pytest.mark.parametrize("ranks", [None, 4, 8])
def test_one_pod_holds_all_ranks_unless_it_may_not(ranks: int | None) -> None:
    spec = {} if ranks is None else {"ranksPerPod": ranks}
    assert workload_manifest(deployment(spec), worldSize=4)["kind"] == "Deployment"


def test_groups_of_another_size_are_another_revision() -> None:
    sizes = ({}, {"ranksPerPod": 1}, {"ranksPerPod": 2})
    assert len({revision(deployment(spec), worldSize=4).name for spec in sizes}) == 3


def test_names_of_revisions_leave_room_for_numbers() -> None:
    long = [revision(deployment(name="a" * length)) for length in (39, 40, 52)]
    assert len({made.name for made in long}) == 3
    assert all(len(made.name) <= 48 for made in long)


def test_urls() -> None:
    assert service_url(deployment()) == "http://chat.models.svc"
    assert service_url(deployment(SERVE_SPEC)) == "http://chat.models.svc:8080"


@pytest.mark.parametrize(
    ("text", "value"),
    [("512Mi", 512 << 20), ("1.5Gi", 3 << 29), (2, 2), ("2", 2), ("1k", 1000), ("3E", 3 * 10**18)],
)
def test_quantities(text: int | str, value: int) -> None:
    assert parse_quantity(text) == value


def test_milli_is_a_thousandth() -> None:
    assert parse_quantity("200m") * 5 == 1


@pytest.mark.parametrize("text", ["", "lots", "1 Gi", "-1", "1e3", "1.Gi"])
def test_bad_quantities_say_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="512Mi"):
        parse_quantity(text)
