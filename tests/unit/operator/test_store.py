"""The view of the cluster: newer wins, deletions stay, references find."""

from typing import Any

import pytest

from pitcrew_operator.config import Config
from pitcrew_operator.dispatch import concerned
from pitcrew_operator.kinds import (
    CLAIM,
    DEPLOYMENT,
    ENGINE,
    JOB,
    NODE,
    POD,
    SERVICE,
    WATCHED,
    WORKLOAD,
    Kind,
    Raw,
    kind_of,
)
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL
from pitcrew_operator.reconcile import Key
from pitcrew_operator.store import Store
from pitcrew_operator.views import JOB_NAME_LABEL
from tests.unit.operator.factories import CONFIG, NAMESPACE, deployment_raw, engine_raw, meta


class Heard:
    """Remembers what the store told."""

    def __init__(self) -> None:
        self.changes: list[tuple[Kind, Raw]] = []
        self.store = Store(lambda kind, raw: self.changes.append((kind, raw)))

    @property
    def names(self) -> list[str]:
        return [raw["metadata"]["name"] for _, raw in self.changes]


@pytest.fixture
def heard() -> Heard:
    return Heard()


def job(name: str, version: int = 1, uid: str = "u", **labels: str) -> dict[str, Any]:
    return {"metadata": meta(name, uid, resourceVersion=str(version), labels=labels)}


def test_older_version_does_not_replace_a_newer_one(heard: Heard) -> None:
    heard.store.put(JOB, job("a", 10) | {"status": {"failed": 1}})
    heard.store.put(JOB, job("a", 9))
    heard.store.put(JOB, job("a", 10))
    assert heard.names == ["a"]
    known = heard.store.get(JOB, NAMESPACE, "a")
    assert known is not None
    assert known["status"]["failed"] == 1


def test_versions_are_compared_as_numbers(heard: Heard) -> None:
    heard.store.put(JOB, job("a", 9))
    heard.store.put(JOB, job("a", 10, failed="yes"))
    assert heard.names == ["a", "a"]


def test_new_life_replaces_an_old_one_whatever_its_version(heard: Heard) -> None:
    heard.store.put(JOB, job("a", 10, "first"))
    heard.store.put(JOB, job("a", 3, "second"))
    known = heard.store.get(JOB, NAMESPACE, "a")
    assert known is not None
    assert known["metadata"]["uid"] == "second"


def test_late_answer_does_not_bring_a_deleted_object_back(heard: Heard) -> None:
    heard.store.put(JOB, job("a", 1))
    heard.store.remove(JOB, job("a", 5))
    heard.store.put(JOB, job("a", 4))
    assert heard.store.get(JOB, NAMESPACE, "a") is None


def test_deletion_of_an_old_life_leaves_the_new_one(heard: Heard) -> None:
    heard.store.put(JOB, job("a", 8, "second"))
    heard.store.remove(JOB, job("a", 7, "first"))
    assert heard.store.get(JOB, NAMESPACE, "a") is not None


def test_listing_removes_what_it_lacks_but_not_what_is_younger(heard: Heard) -> None:
    heard.store.put(JOB, job("gone", 5, "u1"))
    heard.store.put(JOB, job("young", 50, "u2"))
    heard.store.replace(JOB, [job("listed", 7, "u3")], "40", None)
    assert {raw["metadata"]["name"] for raw in heard.store.all(JOB)} == {"listed", "young"}
    assert heard.names[-1] == "gone"


def test_listing_of_one_namespace_leaves_the_others(heard: Heard) -> None:
    heard.store.put(JOB, job("a", 5))
    heard.store.replace(JOB, [], "40", "elsewhere")
    assert heard.store.count(JOB) == 1


def test_what_is_held_already_stands_for_its_equals(heard: Heard) -> None:
    heard.store.put(JOB, job("a", 5))
    assert heard.store.known(JOB, job("a", 5)) is heard.store.get(JOB, NAMESPACE, "a")
    for other in (job("a", 6), job("a", 5, uid="other"), job("b", 5)):
        assert heard.store.known(JOB, other) is other


def owned(raw: Raw, *engines: str) -> Raw:
    """A Job that belongs to these LLMEngines."""
    owners = [{"kind": "LLMEngine", "name": name, "uid": f"uid-{name}"} for name in engines]
    return {**raw, "metadata": {**raw["metadata"], "ownerReferences": owners}}


def node(version: int, **labels: str) -> Raw:
    metadata = {"name": "n", "uid": "n", "resourceVersion": str(version), "labels": labels}
    return {"metadata": metadata, "spec": {}, "status": {"heartbeat": version}}


def test_a_node_that_only_reports_is_no_news(heard: Heard) -> None:
    heard.store.put(NODE, node(1, driver="575"))
    heard.store.put(NODE, node(2, driver="575"))
    assert heard.names == ["n"]
    heard.store.put(NODE, node(3, driver="580"))
    assert heard.names == ["n", "n"]


BOUND = {"type": "PodScheduled", "status": "True"}


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (JOB, {"status": {}}, {"status": {"active": 1, "uncountedTerminatedPods": {}}}),
        (JOB, {"status": {}}, {"status": {"conditions": [{"type": "SuccessCriteriaMet"}]}}),
        (POD, {"spec": {}}, {"spec": {"nodeName": "n"}, "status": {"conditions": [BOUND]}}),
        (WORKLOAD, {"status": {}}, {"status": {"conditions": [{"type": "Progressing"}]}}),
    ],
    ids=["active job", "job about to complete", "bound pod", "progressing workload"],
)
def test_what_is_never_read_is_no_news(heard: Heard, kind: Kind, before: Raw, after: Raw) -> None:
    heard.store.put(kind, job("a", 1) | before)
    heard.store.put(kind, job("a", 2) | after)
    assert heard.names == ["a"]
    known = heard.store.get(kind, NAMESPACE, "a")
    assert known is not None
    assert known["metadata"]["resourceVersion"] == "2"


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        (JOB, {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}),
        (JOB, {"spec": {"suspend": True}}),
        (POD, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        (POD, {"status": {"conditions": [{"type": "PodScheduled", "status": "False"}]}}),
        (POD, {"status": {"containerStatuses": [{"name": "c", "restartCount": 1}]}}),
        (WORKLOAD, {"status": {"availableReplicas": 1}}),
        (WORKLOAD, {"spec": {"replicas": 2}}),
    ],
)
def test_what_is_read_is_news(heard: Heard, kind: Kind, after: Raw) -> None:
    heard.store.put(kind, job("a", 1))
    heard.store.put(kind, job("a", 2) | after)
    assert heard.names == ["a", "a"]


def test_references_follow_changes(heard: Heard) -> None:
    heard.store.put(JOB, owned(job("a", 1, "u"), "one"))
    heard.store.put(JOB, owned(job("a", 2, "u"), "two", "three"))
    assert heard.store.refer(JOB, NAMESPACE, "engine=one") == []
    assert len(heard.store.refer(JOB, NAMESPACE, "engine=two")) == 1
    assert len(heard.store.refer(JOB, NAMESPACE, "engine=three")) == 1
    heard.store.remove(JOB, job("a", 3))
    assert heard.store.refer(JOB, NAMESPACE, "engine=two") == []


def test_only_what_is_read_is_kept(heard: Heard) -> None:
    managed = {"managedFields": [{"manager": "x"}]}
    spec = {"containers": [{"image": "i", "env": [{"name": "SECRET"}]}], "volumes": [1]}
    heard.store.put(POD, {"metadata": meta("p", **managed), "spec": spec})
    known = heard.store.get(POD, NAMESPACE, "p")
    assert known is not None
    assert "managedFields" not in known["metadata"]
    assert known["spec"] == {"containers": [{"image": "i"}], "initContainers": []}


def filled() -> Store:
    store = Store(lambda kind, raw: None)
    store.put(ENGINE, engine_raw())
    store.put(ENGINE, engine_raw({"store": {"claimName": "mine"}}, name="other", uid="o"))
    store.put(ENGINE, engine_raw({**HUB, "target": "tensorrt"}, name="plan", uid="p"))
    store.put(JOB, owned(job("tiny-build"), "tiny"))
    store.put(DEPLOYMENT, deployment_raw())
    return store


HUB = {"model": {"huggingFace": {"repo": "a/b"}}}


TINY, OTHER = Key(ENGINE, NAMESPACE, "tiny"), Key(ENGINE, NAMESPACE, "other")
PLAN, CHAT = Key(ENGINE, NAMESPACE, "plan"), Key(DEPLOYMENT, NAMESPACE, "chat")

CONCERNED: list[tuple[Kind, Raw, set[Key]]] = [
    (ENGINE, engine_raw(), {TINY, CHAT}),
    (DEPLOYMENT, deployment_raw(), {CHAT}),
    (JOB, owned(job("j"), "tiny", "other"), {TINY, OTHER}),
    (POD, job("b", **{JOB_NAME_LABEL: "tiny-build"}), {TINY}),
    (POD, job("b", **{JOB_NAME_LABEL: "somebody-elses"}), set()),
    (NODE, node(1), {PLAN}),
    (SERVICE, job("s", **{DEPLOYMENT_LABEL: "chat"}), {CHAT}),
    (POD, job("p"), set()),
    (CLAIM, {"metadata": meta("checkpoints")}, {TINY, OTHER}),
    (CLAIM, {"metadata": meta("mine")}, {OTHER}),
    (CLAIM, {"metadata": meta(CONFIG.store_claim)}, {TINY, PLAN}),
    (CLAIM, {"metadata": meta("unrelated")}, set()),
]


@pytest.mark.parametrize(("kind", "raw", "keys"), CONCERNED)
def test_a_change_concerns(kind: Kind, raw: Raw, keys: set[Key]) -> None:
    assert set(concerned(kind, raw, filled(), CONFIG)) == keys


def test_default_store_has_the_configured_name() -> None:
    config = Config(builder_image="b", runtime_image="r", store_claim="shelf")
    keys = set(concerned(CLAIM, {"metadata": meta("shelf")}, filled(), config))
    assert keys == {TINY, PLAN}


@pytest.mark.parametrize("kind", WATCHED, ids=lambda kind: kind.kind)
def test_kinds_are_found_by_their_manifests(kind: Kind) -> None:
    assert kind_of({"apiVersion": kind.api_version, "kind": kind.kind}) is kind


def test_paths() -> None:
    assert POD.path("a", "b", "log") == "/api/v1/namespaces/a/pods/b/log"
    assert ENGINE.path(None) == "/apis/pitcrew.dev/v1alpha1/llmengines"
    assert JOB.path("a", "../x") == "/apis/batch/v1/namespaces/a/jobs/..%2Fx"
