"""Raw API objects for tests: small, valid, and changed by keyword."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pitcrew_builder.report import (
    Failed,
    FailureReason,
    Prediction,
    Resolved,
    Succeeded,
    parse_resolution,
)
from pitcrew_operator.api.version import Answer, EngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.manifests.revision import Revision, revision_of
from pitcrew_operator.manifests.workload import kind_for
from pitcrew_operator.views import Deployment, Engine, deployment_of, engine_of

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
NAMESPACE = "models"
CONFIG = Config(builder_image="pitcrew/builder:1", runtime_image="pitcrew/runtime:1")

ENGINE_STATUS: dict[str, Any] = {
    "id": "7c1d" * 16,
    "tag": "tiny-0e9e39f-cpu-ort1.32.0-fp32",
    "path": "tiny/0e9e39f2c1aa/cpu-ort1.32.0-fp32/7c1d7c1d7c1d",
    "claimName": "pitcrew-engines",
    "model": "tiny",
    "commit": "0e9e39f2c1aa",
    "worldSize": 1,
    "sizeBytes": 11_000_000,
    "manifestSha256": "ab" * 32,
    "maxBatchSize": 8,
    "maxSequenceLength": 256,
    "kvBytesPerToken": 3072,
    "buildSeconds": 3,
    "cached": False,
}


def meta(default_name: str, uid: str = "", **more: object) -> dict[str, Any]:
    """Metadata with the usual fields."""
    uid = uid or f"uid-{default_name}"
    base = {"name": default_name, "namespace": NAMESPACE, "uid": uid, "generation": 1}
    return base | more


def engine_raw(
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **metadata: object,
) -> dict[str, Any]:
    """An LLMEngine from a volume."""
    volume = {"model": {"volume": {"claimName": "checkpoints", "path": "tiny"}}}
    return {
        "apiVersion": "pitcrew.dev/v1alpha1",
        "kind": "LLMEngine",
        "metadata": meta("tiny", **metadata),
        "spec": volume | dict(spec or {}),
        "status": dict(status or {}),
    }


def engine(
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **metadata: object,
) -> Engine:
    """The same, parsed."""
    return engine_of(engine_raw(spec, status, **metadata))


def deployment_raw(
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **metadata: object,
) -> dict[str, Any]:
    """An LLMDeployment of that engine."""
    return {
        "apiVersion": "pitcrew.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": meta("chat", **metadata),
        "spec": {"engineRef": {"name": "tiny"}, "replicas": 2} | dict(spec or {}),
        "status": dict(status or {}),
    }


def deployment(
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **metadata: object,
) -> Deployment:
    """The same, parsed."""
    return deployment_of(deployment_raw(spec, status, **metadata))


def revision(owner: Deployment, **engine_fields: object) -> Revision:
    """The revision of an LLMDeployment, with the engine of ENGINE_STATUS and what is changed of it."""
    status = EngineStatus.model_validate(ENGINE_STATUS | engine_fields)
    return revision_of(owner, status, "tiny", CONFIG)


def workload_manifest(owner: Deployment, **engine_fields: object) -> dict[str, Any]:
    """Its workload, with the replicas that the spec asks for."""
    made = revision(owner, **engine_fields)
    replicas = 1 if owner.spec.replicas is None else owner.spec.replicas
    return kind_for(made).manifest(made, replicas)


def pod_raw(name: str, labels: Mapping[str, str], **status: object) -> dict[str, Any]:
    """A pod with the given status."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta(name, labels=dict(labels), creationTimestamp="2026-11-01T11:00:00Z"),
        "spec": {"containers": [{"name": "main", "image": "pitcrew/x:1"}]},
        "status": status,
    }


def container(state: str, **fields: object) -> dict[str, Any]:
    """The status of a pod whose container is `running`, `waiting` or `terminated`."""
    return {"containerStatuses": [{"name": "main", "state": {state: fields}}]}


def terminated(message: str, code: int = 0, reason: str = "Completed") -> dict[str, Any]:
    """The status of a pod that ended with these last words."""
    return container("terminated", exitCode=code, message=message, reason=reason)


def succeeded(**more: object) -> str:
    """The termination message of a successful build."""
    known = {k: v for k, v in ENGINE_STATUS.items() if k not in ("id", "claimName", "buildSeconds")}
    document = known | {"kind": "succeeded", "engineId": ENGINE_STATUS["id"], "seconds": 3.2} | more
    return Succeeded.model_validate(document).model_dump_json(by_alias=True)


def failed(reason: FailureReason = FailureReason.CHECKPOINT_CORRUPT, text: str = "bad file") -> str:
    """The termination message of a failed build."""
    return Failed(reason=reason, message=text).model_dump_json(by_alias=True)


def resolved(**more: object) -> str:
    """The termination message of a look at what would be built: the engine of ENGINE_STATUS."""
    known = {
        "key": ENGINE_STATUS["id"],
        "engineId": ENGINE_STATUS["id"],
        "tag": ENGINE_STATUS["tag"],
        "targetTag": "cpu-ort1.32.0-fp32",
        "model": "tiny",
        "commit": "0e9e39f2c1aa",
        "toolchain": {"onnxruntime": "1.32.0"},
        "builderVersion": "0.1.0",
        "worldSize": 1,
        "prediction": PREDICTION,
    }
    return Resolved.model_validate(known | more).model_dump_json(by_alias=True)


def answer(**more: object) -> Answer:
    """What a look finds, as it is recorded."""
    report = parse_resolution(resolved(**more))
    assert isinstance(report, Resolved)
    return Answer.model_validate(report.model_dump())


PREDICTION = Prediction(
    rank_weight_bytes=11_000_000,
    rank_activation_bytes=1_000_000,
    kv_bytes_per_token=3072,
    engine_disk_bytes=11_000_000,
    build_disk_bytes=11_000_000,
    build_ram_bytes=500_000_000,
    build_seconds=3,
)


def compact(document: object) -> str:
    """Stable JSON text."""
    return json.dumps(document, sort_keys=True)
