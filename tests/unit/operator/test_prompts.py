"""Prompts of ConfigMaps: what is missing is named, and what changes is another question."""

import hashlib
from datetime import timedelta
from typing import Any, cast

import pytest

from pitcrew_operator.api.prompts import ConfigMapKey
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.configmaps import INTERVAL, ConfigMaps
from pitcrew_operator.kinds import CONFIG_MAP, Kind, Raw
from pitcrew_operator.order import Order
from pitcrew_operator.plan.actions import Action, Apply, Requeue, WriteStatus
from pitcrew_operator.plan.engine import EngineSeen, plan_engine
from pitcrew_operator.views import Claim
from tests.unit.operator.factories import CONFIG, NOW, engine

KEY = ConfigMapKey(name="prompts", key="a.jsonl")
SPEC = {"proof": {"prompts": {"configMap": {"name": "prompts", "key": "a.jsonl"}}}}
STORE, SOURCE = Claim("pitcrew-engines", "uid-store"), Claim("checkpoints", "uid-source")


class OneNamespace:
    """ConfigMaps by name, and how often they were read."""

    def __init__(self, **held: dict[str, Any]) -> None:
        self.held, self.reads = held, 0

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        assert (kind, namespace) == (CONFIG_MAP, "models")
        self.reads += 1
        return self.held.get(name)


def reader(cluster: OneNamespace, clock: list[timedelta]) -> ConfigMaps:
    return ConfigMaps(cast(Cluster, cluster), lambda: NOW + clock[0])


async def test_a_key_is_told_by_the_digest_of_its_content() -> None:
    binary = ConfigMapKey(name="prompts", key="b")
    absent = ConfigMapKey(name="other", key="a.jsonl")
    unknown = ConfigMapKey(name="prompts", key="c")
    cluster = OneNamespace(prompts={"data": {"a.jsonl": "{}"}, "binaryData": {"b": "AA=="}})
    found = await reader(cluster, [timedelta()]).digests("models", [KEY, binary, absent, unknown])
    assert found == {
        KEY: hashlib.sha256(b"{}").hexdigest(),
        binary: hashlib.sha256(b"AA==").hexdigest(),
        absent: None,
        unknown: None,
    }
    assert cluster.reads == 2


async def test_a_look_holds_for_a_while() -> None:
    cluster, clock = OneNamespace(), [timedelta()]
    maps = reader(cluster, clock)
    assert await maps.digests("models", [KEY]) == {KEY: None}
    cluster.held["prompts"] = {"data": {"a.jsonl": "{}"}}
    assert await maps.digests("models", [KEY]) == {KEY: None}
    clock[0] = INTERVAL
    assert (await maps.digests("models", [KEY]))[KEY] is not None
    clock[0] = timedelta(hours=-1)
    await maps.digests("models", [KEY])
    assert cluster.reads == 3, "a clock that was set back must not make an old look eternal"


def plan(digest: str | None) -> list[Action]:
    seen = EngineSeen(store=STORE, source=SOURCE, prompts={KEY: digest})
    return plan_engine(engine(SPEC), seen, NOW, CONFIG)


def test_a_missing_key_is_named_and_nothing_starts() -> None:
    actions = plan(None)
    (status,) = [action.status for action in actions if isinstance(action, WriteStatus)]
    ready = next(c for c in status.conditions if c.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "PromptsNotFound")
    assert "ConfigMap prompts" in ready.message
    assert "key a.jsonl" in ready.message
    assert not [action for action in actions if isinstance(action, Apply)]
    assert [action for action in actions if isinstance(action, Requeue)]


def test_once_it_is_there_the_builder_is_asked() -> None:
    (job,) = [action.manifest for action in plan("ab") if isinstance(action, Apply)]
    assert job["kind"] == "Job"
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert {"name": "prompts-0", "configMap": {"name": "prompts"}} in volumes


@pytest.mark.parametrize(("digest", "same"), [("ab", True), ("cd", False)])
def test_other_content_is_another_question(digest: str, same: bool) -> None:
    first, second = (
        Order(engine(SPEC), CONFIG, STORE, SOURCE, {KEY: sha}) for sha in ("ab", digest)
    )
    assert (first.inputs == second.inputs) is same
    assert first.spec_hash == second.spec_hash
