"""What goes wrong ends in a condition that says what to do, and no partial engine is ever visible."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cluster, devcluster
from tests.e2e.product import MODEL, apply, condition, deployment, engine, ready, stalled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("pitcrew")]


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def truncate_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4096])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN: dict[str, Callable[[Path], None]] = {
    "truncated": truncate_weights,
    "unknown": lambda folder: edit_config(
        folder, model_type="abacus", architectures=["AbacusForCausalLM"]
    ),
    "pickle": pickle_only,
    "remote-code": lambda folder: edit_config(folder, auto_map={"AutoModel": "evil.Model"}),
    "contradiction": lambda folder: edit_config(folder, hidden_size=256),
}
EXPECTED = {
    "absent": ("CheckpointNotFound", ["absent"]),
    "truncated": ("CheckpointCorrupt", ["model.safetensors"]),
    "unknown": ("UnknownArchitecture", ["abacus", "llama"]),
    "pickle": ("CheckpointUnsafe", ["safetensors"]),
    "remote-code": ("CheckpointUnsafe", ["auto_map"]),
    "contradiction": ("CheckpointCorrupt", ["256", "192"]),
}


@pytest.fixture(scope="module")
def space(kubectl: Callable[..., Any], cluster: Cluster) -> Iterator[str]:
    name = "e2e-bad-input"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=true", "--timeout=120s")


@pytest.fixture(scope="module")
def models(space: str, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(MODEL, root / "good")
    for name, damage in BROKEN.items():
        shutil.copytree(MODEL, root / name)
        damage(root / name)
    cluster.volume("models", root, space)
    return "models"


def published(kubectl: Callable[..., Any], space: str, claim: str = "pitcrew-engines") -> list[str]:
    """The manifests that are visible in the namespace's engine store, and whatever is staged."""
    bound = kubectl("-n", space, "get", "pvc", claim, "-o", "json")["spec"].get("volumeName")
    if bound is None:  # no build has come so far as to need it
        return []
    spec = kubectl("get", "pv", bound, "-o", "json")["spec"]
    path = (spec.get("hostPath") or spec.get("local"))["path"]
    listed = devcluster("exec", "--", "find", path, "-name", "manifest.json")
    return listed.split()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_bad_checkpoint_stalls_with_the_remedy(
    name: str,
    models: str,
    space: str,
    kubectl: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    apply(kubectl, space, engine(name, models, name))

    found = eventually(lambda: stalled(kubectl, space, "llmengine", name), seconds=120)
    reason, words = EXPECTED[name]
    assert found["reason"] == reason
    assert [word for word in words if word not in found["message"]] == []
    assert published(kubectl, space) == []


def test_a_missing_volume_is_named_and_its_arrival_is_enough(
    space: str,
    cluster: Cluster,
    kubectl: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    apply(kubectl, space, engine("early", "late-models", "tiny-kjv"))

    def waiting() -> bool:
        document = kubectl("-n", space, "get", "llmengine", "early", "-o", "json")
        found = condition(document, "Ready")
        return found.get("reason") == "SourceVolumeNotFound" and "late-models" in found["message"]

    eventually(waiting, seconds=60)
    cluster.volume("late-models", MODEL.parent, space)
    eventually(lambda: ready(kubectl, space, "llmengine", "early"), seconds=120)


def test_a_world_size_that_is_not_the_engines_is_refused_with_both_numbers(
    space: str, kubectl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    apply(kubectl, space, deployment("wide", "early", worldSize=4))

    found = eventually(lambda: stalled(kubectl, space, "llmdeployment", "wide"), seconds=60)
    assert found["reason"] == "WorldSizeMismatch"
    assert "4" in found["message"]
    assert "1" in found["message"]
    pods = kubectl("-n", space, "get", "deploy", "-o", "name")
    assert "wide" not in pods


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        pytest.param("4Mi", "DoesNotFit", id="foreseen"),
        pytest.param("1Gi", "DiskFull", id="smaller-than-it-says"),
    ],
)
def test_a_full_disk_is_told_with_numbers_and_leaves_nothing(
    stated: str,
    reason: str,
    models: str,
    space: str,
    kubectl: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    folder = "/var/lib/volumes/tiny-disk"
    devcluster("exec", "--", "mkdir", "-p", folder)
    devcluster("exec", "--", "mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", folder)
    try:
        apply(kubectl, space, small_volume("tiny-disk", folder, space, stated))
        apply(kubectl, space, engine("big", models, "good", store={"claimName": "tiny-disk"}))
        found = eventually(lambda: stalled(kubectl, space, "llmengine", "big"), seconds=120)
        assert found["reason"] == reason
        assert re.search(r"[0-9.]+ (bytes|MiB|MB)", found["message"])
        assert published(kubectl, space, "tiny-disk") == []
    finally:
        kubectl("-n", space, "delete", "llmengine", "big", "--wait=true", check=False)
        kubectl("-n", space, "delete", "pvc", "tiny-disk", "--wait=true", "--timeout=60s")
        kubectl("delete", "pv", "tiny-disk")
        devcluster("exec", "--", "umount", "-l", folder)


def small_volume(name: str, folder: str, space: str, stated: str) -> dict[str, Any]:
    """A volume of a folder, and its claim, which say that they have so much room."""
    shared = {"accessModes": ["ReadWriteOnce"], "storageClassName": "e2e-small"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **shared,
            "capacity": {"storage": stated},
            "hostPath": {"path": folder},
            "claimRef": {"namespace": space, "name": name},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": space},
        "spec": {**shared, "volumeName": name, "resources": {"requests": {"storage": stated}}},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [volume, claim]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": {}}, "exactly one"),
        ({"precision": "fp3"}, "precision"),
        ({"shapes": {"maxBatchSize": 0}}, "maxBatchSize"),
        ({"parallelism": {"tensor": 64, "pipeline": 2}}, "tensor"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_admission_refuses_what_can_never_be(
    change: dict[str, Any], word: str, space: str, kubectl: Callable[..., Any]
) -> None:
    document = engine("refused", "models", "x")
    document["spec"] |= change
    with pytest.raises(AssertionError, match=word):
        kubectl(
            *("-n", space, "apply", "--server-side", "--validate=strict", "-f", "-"),
            stdin=json.dumps(document),
        )


def test_an_operator_killed_in_mid_build_makes_one_engine(
    models: str, space: str, kubectl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    document = engine("survivor", models, "good", shapes={"maxBatchSize": 3})
    apply(kubectl, space, document)

    def builds() -> list[str]:
        found = kubectl("-n", space, "get", "jobs", "-o", "json")["items"]
        owned = {
            job["metadata"]["name"]: [
                owner["name"] for owner in job["metadata"].get("ownerReferences", ())
            ]
            for job in found
        }
        return [
            name for name, owners in owned.items() if "survivor" in owners and "-build-" in name
        ]

    eventually(builds, seconds=60, every=0.05)
    kubectl("-n", "pitcrew-system", "delete", "pods", "--all", "--grace-period=0", "--force")
    apply(kubectl, space, document)
    eventually(lambda: ready(kubectl, space, "llmengine", "survivor"), seconds=120)
    assert len(builds()) <= 1
    status = kubectl("-n", space, "get", "llmengine", "survivor", "-o", "json")["status"]
    matching = [p for p in published(kubectl, space) if status["engine"]["path"] in p]
    assert len(matching) == 1


def test_deleting_both_leaves_the_engine_and_nothing_else(
    space: str, kubectl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    apply(kubectl, space, deployment("brief", "early"))
    eventually(lambda: ready(kubectl, space, "llmdeployment", "brief"), seconds=120)
    kept = published(kubectl, space)
    for kind in ("llmengine", "llmdeployment"):
        kubectl("-n", space, "delete", kind, "--all", "--wait=true", "--timeout=60s")

    def children() -> str:
        text: str = kubectl("-n", space, "get", "jobs,deploy,svc,pods", "-o", "name")
        return text.strip()

    eventually(lambda: not children(), seconds=90)
    assert published(kubectl, space) == kept
