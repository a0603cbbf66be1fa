"""Engines on a volume and in object storage: what pods get, and what configuration leads to it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pitcrew_operator.api.engine import LLMEngineSpec
from pitcrew_operator.api.store import EngineStore
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import ENGINE, JOB
from pitcrew_operator.logtails import LogTails
from pitcrew_operator.manifests.builder_pod import Task, pod_spec
from pitcrew_operator.manifests.names import STORE_LABEL, store_label
from pitcrew_operator.manifests.revision import revision_of
from pitcrew_operator.manifests.store import Bucket, arguments, chosen, recorded
from pitcrew_operator.observe_builds import see_uses, see_work
from pitcrew_operator.order import Order
from pitcrew_operator.plan.pods import last_report, why_not_running
from pitcrew_operator.store import Store
from pitcrew_operator.views import COMPONENT_LABEL, Claim, deployment_of, engine_of, pod_of
from tests.property.operator.simulation import SimulatedCluster
from tests.unit.operator.factories import (
    CONFIG,
    ENGINE_STATUS,
    NOW,
    deployment,
    engine,
    engine_raw,
    meta,
    pod_raw,
)
from tests.unit.operator.goldens import assert_golden

SAMPLES = Path(__file__).parents[3] / "samples"
S3: dict[str, Any] = {
    "bucket": "engines",
    "prefix": "team-a",
    "endpoint": "https://s3.example",
    "region": "eu-1",
    "credentialsSecretRef": {"name": "s3-keys"},
}
STORE = EngineStore.model_validate({"s3": S3})
OWN = EngineStore.model_validate({"s3": {**S3, "prefix": "team-a/models"}})
STORED = {k: v for k, v in ENGINE_STATUS.items() if k != "claimName"} | {"s3": S3}
CACHE = {"runtime": {"engineCache": {"claimName": "engine-cache"}}}


def bucket() -> Bucket:
    assert STORE.s3 is not None
    return Bucket(STORE.s3)


def served(status: dict[str, Any], spec: dict[str, Any] | None = None) -> dict[str, Any]:
    found = EngineStatus.model_validate(status)
    made = revision_of(deployment(spec), found, "tiny", CONFIG)
    pod: dict[str, Any] = made.template["spec"]
    return pod


@pytest.mark.parametrize(
    ("name", "status", "spec"),
    [
        ("pod-volume", ENGINE_STATUS, None),
        ("pod-s3", STORED, None),
        ("pod-s3-cache", STORED, CACHE),
    ],
)
def test_pods_get_their_engine(
    name: str, status: dict[str, Any], spec: dict[str, Any] | None
) -> None:
    assert_golden(name, served(status, spec))


@pytest.mark.parametrize("status", [ENGINE_STATUS, STORED])
def test_the_runtime_sees_one_read_only_directory_and_no_keys(status: dict[str, Any]) -> None:
    pod = served(status)
    (runtime,), (step,) = pod["containers"], pod["initContainers"]
    mounted = next(m for m in runtime["volumeMounts"] if m["name"] == "engine")
    assert (mounted["mountPath"], mounted["readOnly"]) == ("/engine", True)
    assert "AWS" not in json.dumps(runtime)
    assert step["securityContext"] == runtime["securityContext"]


def test_a_node_has_to_hold_the_copy() -> None:
    (step,) = served(STORED)["initContainers"]
    assert step["resources"]["requests"] == {"ephemeral-storage": str(STORED["sizeBytes"])}
    assert "resources" not in served(STORED, CACHE)["initContainers"][0]


def test_a_shared_cache_is_writable_for_our_group() -> None:
    assert served(STORED, CACHE)["securityContext"]["fsGroup"] == 10001
    assert "fsGroup" not in served(STORED)["securityContext"]


def test_a_build_reaches_the_bucket_with_keys_of_its_own() -> None:
    """The checkpoint's keys stay the SDK's usual ones; the store's have a prefix."""
    spec = {"model": {"s3": {"bucket": "models", "credentialsSecretRef": {"name": "others"}}}}
    task = Task(engine(spec), CONFIG, ["build"], {}, store=bucket())
    (container,) = pod_spec(task)["containers"]
    secrets = {
        entry["name"]: entry["valueFrom"]["secretKeyRef"]["name"]
        for entry in container["env"]
        if "valueFrom" in entry
    }
    assert secrets["AWS_ACCESS_KEY_ID"] == "others"
    assert secrets["PITCREW_STORE_AWS_ACCESS_KEY_ID"] == "s3-keys"
    assert "engines" not in [mount["name"] for mount in container["volumeMounts"]]
    told = ["--store-endpoint", "https://s3.example", "--store-region", "eu-1"]
    assert arguments(bucket()) == ["--store", "s3://engines/team-a", *told]


def test_prompts_of_config_maps_are_mounted_once_each_and_read_by_path() -> None:
    def key(name: str, file: str) -> dict[str, Any]:
        return {"configMap": {"name": name, "key": file}}

    task = {"metric": "bleu", "prompts": key("users.prompts", "tasks.jsonl")}
    spec = {
        "quantization": {"weights": "int8", "calibration": key("users.prompts", "a.jsonl")},
        "proof": {"prompts": key("held-out", "b.jsonl"), "tasks": [task]},
    }
    resource = engine(spec)
    pod = pod_spec(Task(resource, CONFIG, ["build"], {}))
    named = {v["name"]: v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v}
    assert named == {"prompts-0": "users.prompts", "prompts-1": "held-out"}
    mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert mounts["prompts-0"]["mountPath"] == "/prompts/users.prompts"
    assert mounts["prompts-0"]["readOnly"] is True
    request = resource.spec.build_spec()
    assert request.quantization is not None
    assert request.quantization.calibration is not None
    assert request.quantization.calibration.path == "/prompts/users.prompts/a.jsonl"
    assert request.proof is not None
    assert request.proof.tasks[0].prompts.path == "/prompts/users.prompts/tasks.jsonl"
    assert "configMap" not in request.model_dump_json(by_alias=True)


@pytest.mark.parametrize(
    ("own", "config", "wanted"),
    [
        ({}, CONFIG, EngineStore(claim_name="pitcrew-engines")),
        ({}, CONFIG.model_copy(update={"store_s3": STORE.s3}), OWN),
        ({"claimName": "mine"}, CONFIG, EngineStore(claim_name="mine")),
        ({"s3": S3}, CONFIG, STORE),
    ],
)
def test_a_store_that_is_named_comes_before_the_operators_own(
    own: dict[str, Any], config: Config, wanted: EngineStore
) -> None:
    assert chosen(EngineStore.model_validate(own), "models", config) == wanted


def test_the_operators_bucket_is_read_from_its_environment() -> None:
    images = {"PITCREW_BUILDER_IMAGE": "b", "PITCREW_RUNTIME_IMAGE": "r"}
    assert Config.from_env({**images, "PITCREW_STORE_S3": json.dumps(S3)}).store_s3 == STORE.s3
    with pytest.raises(ValidationError, match="bucket"):
        Config.from_env({**images, "PITCREW_STORE_S3": "{}"})


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"store": {"claimName": "a", "s3": {"bucket": "abc"}}}, "claimName or s3, not both"),
        ({"proof": {"prompts": {}}}, "exactly one of path, url and configMap"),
        (
            {"proof": {"prompts": {"path": "x", "configMap": {"name": "a", "key": "b"}}}},
            "exactly one of path, url and configMap",
        ),
        ({"proof": {"prompts": {"configMap": {"name": "a", "key": "../b"}}}}, "pattern"),
    ],
)
def test_contradictions_are_refused(spec: dict[str, Any], told: str) -> None:
    volume = {"model": {"volume": {"claimName": "checkpoints", "path": "tiny"}}}
    with pytest.raises(ValidationError, match=told):
        LLMEngineSpec.model_validate(volume | spec)


def test_the_status_says_where_the_engine_is() -> None:
    assert recorded(Claim("pitcrew-engines", "uid")) == {"claim_name": "pitcrew-engines"}
    status = {**ENGINE_STATUS, "claimName": None}
    found = EngineStatus.model_validate(status).model_copy(update=recorded(bucket()))
    document = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert document["s3"] == S3
    assert "claimName" not in document
    assert EngineStatus.model_validate({**document, "s3": {**S3, "later": 1}}) == found


def step(state: dict[str, Any]) -> dict[str, Any]:
    """The status of a pod whose init step is in a state, as a kubelet reports it."""
    waits = {"name": "runtime", "state": {"waiting": {"reason": "PodInitializing"}}}
    begun = {"name": "engine", "image": "pitcrew/builder:1", "state": state}
    return {"initContainerStatuses": [begun], "containerStatuses": [waits]}


def test_an_init_step_that_fails_is_told_in_its_own_words() -> None:
    message = "EngineCorrupt: model.onnx does not have the digest of its manifest"
    ended = {"terminated": {"exitCode": 2, "reason": "Error", "message": message}}
    pod = pod_of(pod_raw("chat-1", {}, **step(ended)))
    assert last_report([pod]) == ("EngineCorrupt", message.partition(": ")[2], True)


def test_an_init_step_that_cannot_start_is_told_with_its_image() -> None:
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x"'}}
    situation = why_not_running(pod_of(pod_raw("chat-1", {}, **step(waiting))), None)
    assert situation is not None
    assert situation.reason == "PodMisconfigured"
    pulling = {"waiting": {"reason": "ErrImagePull", "message": "denied"}}
    situation = why_not_running(pod_of(pod_raw("chat-1", {}, **step(pulling))), None)
    assert situation is not None
    assert "pitcrew/builder:1" in situation.message


def test_after_its_init_step_a_pod_is_its_runtime() -> None:
    status = step({"terminated": {"exitCode": 0, "reason": "Completed"}})
    status["containerStatuses"][0]["state"] = {"running": {}}
    assert pod_of(pod_raw("chat-1", {}, **status)).running


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("llm*.yaml")), ids=lambda path: path.stem)
def test_samples_are_what_the_operator_reads(path: Path) -> None:
    raw = yaml.safe_load(path.read_text())
    raw["metadata"] |= {"namespace": "default", "uid": "u"}
    if raw["kind"] == "LLMEngine":
        assert engine_of(raw).spec.build_spec()
    else:
        assert deployment_of(raw).spec.engine_ref.name


def test_engines_in_a_bucket_are_kept_for_every_namespace() -> None:
    """A claim is one namespace's own, and an equal engine elsewhere is another copy."""
    view = Store(lambda kind, raw: None)
    version = {"key": "k", "id": "ab" * 32, "phase": "Ready"}
    view.put(ENGINE, engine_raw(status={"versions": [version]}, namespace="others", uid="uid-2"))
    view.put(ENGINE, engine_raw())
    assert see_uses(engine(), view, bucket()).engines == {"ab" * 32}
    assert see_uses(engine(), view, Claim("pitcrew-engines", "uid")).engines == frozenset()


async def test_work_on_a_bucket_is_seen_from_every_namespace() -> None:
    """A build may find an engine of its store at any moment, so nobody removes one meanwhile."""
    view, place = Store(lambda kind, raw: None), bucket()
    view.put(JOB, work_on(place, "build"))
    view.put(JOB, work_on(place, "collect"))
    claim = Claim("pitcrew-engines", "uid")
    assert see_uses(engine(), view, place).is_building
    assert not see_uses(engine(), view, claim).is_building
    for where, removal in ((place, "collect-1"), (claim, None)):
        order = Order(engine(), CONFIG, where)
        tails = LogTails(SimulatedCluster(), 1.0, lambda: NOW)
        seen = await see_work(engine(), order, view, SimulatedCluster(), tails, NOW)
        assert seen.turn.collecting == removal
    view.remove(JOB, work_on(place, "build"))
    assert not see_uses(engine(), view, place).is_building


def work_on(place: Bucket, component: str) -> dict[str, Any]:
    """A Job of another namespace."""
    labels = {COMPONENT_LABEL: component, STORE_LABEL: store_label(place.name)}
    metadata = meta(f"{component}-1", labels=labels, resourceVersion="1") | {"namespace": "others"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {}}
