"""The manifests against golden files: a change of what we create is a change that one reads.

To accept a change: `PITCREW_WRITE_GOLDENS=1 pytest tests/unit/operator/test_manifests.py`.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from pitcrew_operator.api.engine import EngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.build_job import Build, job_manifest
from pitcrew_operator.manifests.quantity import parse_quantity
from pitcrew_operator.manifests.serving import (
    deployment_manifest,
    service_manifest,
    service_url,
)
from pitcrew_operator.manifests.store import store_manifest
from pitcrew_operator.views import Claim
from tests.unit.operator.factories import CONFIG, ENGINE_STATUS, NAMESPACE, deployment, engine

GOLDEN = Path(__file__).parent / "golden"
STORE = Claim("pitcrew-engines", "uid-store")
SERVED = EngineStatus.model_validate(ENGINE_STATUS)

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


def build(spec: dict[str, Any] | None = None, **metadata: object) -> Build:
    return Build(engine(spec, **metadata), STORE, CONFIG)


CASES = {
    "job-volume": lambda: job_manifest(build()),
    "job-hub": lambda: job_manifest(build(HUB_SPEC)),
    "job-s3": lambda: job_manifest(build(S3_SPEC)),
    "store": lambda: store_manifest(NAMESPACE, CONFIG),
    "deployment": lambda: deployment_manifest(deployment(), SERVED, "tiny", CONFIG),
    "deployment-full": lambda: deployment_manifest(deployment(SERVE_SPEC), SERVED, "tiny", CONFIG),
    "service": lambda: service_manifest(deployment()),
    "service-full": lambda: service_manifest(deployment(SERVE_SPEC)),
}


@pytest.mark.parametrize("name", CASES)
def test_manifest_is_golden(name: str) -> None:
    text = yaml.safe_dump(json.loads(json.dumps(CASES[name]())), sort_keys=False)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("PITCREW_WRITE_GOLDENS"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize(
    "name", ["job-volume", "job-hub", "job-s3", "deployment", "deployment-full"]
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


def test_builder_reads_back_the_spec_it_is_given() -> None:
    arguments = job_manifest(build(HUB_SPEC))["spec"]["template"]["spec"]["containers"][0]["args"]
    document = json.loads(arguments[arguments.index("--spec-json") + 1])
    assert document["source"] == {
        "kind": "huggingFace",
        "repo": "meta-llama/Llama-3.2-1B",
        "revision": "v1",
        "endpoint": "https://hub.example",
    }
    assert document["shapes"]["maxBatchSize"] == 4


def test_equal_builds_have_one_name_and_any_change_another() -> None:
    again = build()
    others = [
        build({"shapes": {"maxBatchSize": 1}}),
        build({"build": {"resources": {"limits": {"memory": "1Gi"}}}}),
        build(uid="another-life"),
        build(annotations={names.REBUILD_ANNOTATION: "2"}),
        Build(engine(), Claim("pitcrew-engines", "uid-of-a-new-volume"), CONFIG),
        Build(engine(), STORE, CONFIG.model_copy(update={"builder_image": "pitcrew/builder:2"})),
    ]
    assert again.job_name == build().job_name
    assert len({b.job_name for b in (again, *others)}) == 1 + len(others)


def test_other_annotations_do_not_rebuild() -> None:
    assert build(annotations={"team": "a"}).job_name == build().job_name


@pytest.mark.parametrize("engine_name", ["a", "a" * 63, "with.dots.in.it", "x-" * 31 + "x"])
def test_job_names_are_valid_labels(engine_name: str) -> None:
    name = names.job_name(engine_name, "0123abcd")
    assert len(name) <= 63
    assert name.endswith("-build-0123abcd")
    assert "." not in name
    assert "--build" not in name


def test_store_class_is_left_open_unless_set() -> None:
    named = Config(builder_image="b", runtime_image="r", store_class="fast")
    assert "storageClassName" not in store_manifest(NAMESPACE, CONFIG)["spec"]
    assert store_manifest(NAMESPACE, named)["spec"]["storageClassName"] == "fast"


def test_replicas_absent_means_one() -> None:
    document = deployment_manifest(deployment({"replicas": None}), SERVED, "tiny", CONFIG)
    assert document["spec"]["replicas"] == 1


def test_drain_fits_in_the_grace_period() -> None:
    pod = CASES["deployment-full"]()["spec"]["template"]["spec"]
    sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > sleep + 60


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
