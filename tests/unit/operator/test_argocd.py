"""Which keys of an `argocd-cm` are ours, which are somebody else's, and what is told of them."""

import asyncio
import logging
import re
from typing import Any

import pytest
import yaml

from pitcrew_operator import reasons
from pitcrew_operator.argocd.keeper import Keeper
from pitcrew_operator.argocd.rules import CONFIG, KEYS, RULE, find, key_of, manifest
from pitcrew_operator.errors import ClusterError, Conflict, Rejected
from pitcrew_operator.kinds import CONFIG_MAP, DEPLOYMENT, ENGINE, Kind, Raw
from pitcrew_operator.metrics import Metrics

THEIRS = "return {status = 'Healthy'}"
ENGINE_KEY, DEPLOYMENT_KEY = key_of(ENGINE), key_of(DEPLOYMENT)


def config(
    data: dict[str, str] | None = None, owned: tuple[str, ...] = (), namespace: str = "argocd"
) -> dict[str, Any]:
    """An `argocd-cm` of which these keys are there by our word."""
    fields = {"f:data": {f"f:{key}": {} for key in owned}}
    ours = {"manager": "pitcrew", "operation": "Apply", "fieldsV1": fields}
    theirs = {"manager": "helm", "operation": "Update", "fieldsV1": {"f:data": {".": {}}}}
    metadata = {"namespace": namespace, "name": CONFIG, "uid": "u", "managedFields": [theirs, ours]}
    found: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    return found if data is None else found | {"data": data}


def test_keys_are_those_that_argo_cd_looks_for() -> None:
    assert set(KEYS) == {
        "resource.customizations.health.pitcrew.dev_LLMEngine",
        "resource.customizations.health.pitcrew.dev_LLMDeployment",
    }


@pytest.mark.parametrize("data", [None, {}, {"url": "https://argocd.example"}])
def test_what_is_missing_is_given_to_this_very_object_alone(data: dict[str, str] | None) -> None:
    found = find(config(data))
    assert found.left == ()
    assert found.patch == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "argocd", "name": CONFIG, "uid": "u"},
        "data": {ENGINE_KEY: RULE, DEPLOYMENT_KEY: RULE},
    }


def test_nothing_is_written_where_the_rules_stand() -> None:
    data = {ENGINE_KEY: RULE, DEPLOYMENT_KEY: RULE}
    assert find(config(data, (ENGINE_KEY, DEPLOYMENT_KEY))).patch is None
    # Somebody keeps the same text in a repository.
    assert find(config(data)).patch is None
    assert find(config(data)).left == ()


def test_a_rule_of_an_earlier_version_is_brought_up_to_date() -> None:
    data = {ENGINE_KEY: "return {}", DEPLOYMENT_KEY: RULE}
    found = find(config(data, (ENGINE_KEY, DEPLOYMENT_KEY)))
    assert found.left == ()
    assert found.patch is not None
    assert found.patch["data"][ENGINE_KEY] == RULE


def test_somebody_elses_rule_stays_and_the_other_kind_gets_ours() -> None:
    found = find(config({ENGINE_KEY: THEIRS}))
    assert found.left == (ENGINE,)
    assert found.patch is not None
    assert found.patch["data"] == {DEPLOYMENT_KEY: RULE}


@pytest.mark.parametrize("name", ["pitcrew.dev/LLMEngine", "pitcrew.dev/*"])
def test_a_rule_in_the_older_form_goes_before_ours(name: str) -> None:
    older = yaml.safe_dump({name: {"health.lua": THEIRS}})
    data = {"resource.customizations": older, ENGINE_KEY: RULE, DEPLOYMENT_KEY: RULE}
    found = find(config(data, (ENGINE_KEY, DEPLOYMENT_KEY)))
    assert ENGINE in found.left
    assert (DEPLOYMENT in found.left) == name.endswith("*")
    assert found.patch is not None, "ours is taken back"
    assert ENGINE_KEY not in found.patch["data"]
    # Once it is gone, nothing more is to do.
    left = {key: text for key, text in data.items() if key not in map(key_of, found.left)}
    kept = tuple(key for key in left if key in KEYS)
    assert find(config(left, kept)).patch is None


@pytest.mark.parametrize(
    "text",
    [
        "pitcrew.dev/LLMEngine: {ignoreDifferences: 'jsonPointers: [/spec/replicas]'}",
        "pitcrew.dev/LLMEngine",
        "pitcrew.dev/LLMEngine: [",
        "'*/*': {health.lua: return {}}",
    ],
)
def test_what_is_no_rule_for_our_kinds_is_in_nobodys_way(text: str) -> None:
    assert find(config({"resource.customizations": text})).left == ()


def test_printed_manifest_holds_the_same_rules() -> None:
    printed = yaml.safe_load("\n".join(manifest()) + "\n")
    assert printed["metadata"] == {"name": CONFIG}
    assert printed["data"] == {ENGINE_KEY: RULE, DEPLOYMENT_KEY: RULE}


def test_rule_names_reasons_that_exist() -> None:
    (held,) = re.findall(r"local held = \{(.*)\}", RULE)
    named = re.findall(r"(\w+) = true", held)
    assert named
    assert set(named) <= {getattr(reasons, name) for name in dir(reasons) if name.isupper()}


class Shared:
    """ConfigMaps by namespace; `error` answers the next write."""

    def __init__(self, **configs: Raw) -> None:
        self.configs: dict[str, Raw | ClusterError] = dict(configs)
        self.error: ClusterError | None = None
        self.given: list[Raw] = []
        self.news = asyncio.Event()
        self.reads = 0

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        assert (kind, name) == (CONFIG_MAP, CONFIG)
        self.reads += 1
        found = self.configs.get(namespace)
        if isinstance(found, ClusterError):
            raise found
        return found

    async def contribute(self, kind: Kind, manifest: Raw) -> Raw:
        assert kind is CONFIG_MAP
        if self.error is not None:
            raise self.error
        self.given.append(manifest)
        self.news.set()
        now = config(dict(manifest["data"]), tuple(manifest["data"]))
        self.configs[manifest["metadata"]["namespace"]] = now
        return now


def keeper(shared: Shared, *namespaces: str, leads: bool = True) -> tuple[Keeper, Metrics]:
    metrics = Metrics()
    return Keeper(shared, namespaces or ("argocd",), 60, metrics, lambda: leads), metrics


def count(metrics: Metrics, namespace: str = "argocd") -> float | None:
    labels = {"namespace": namespace}
    return metrics.registry.get_sample_value("pitcrew_operator_argocd_rules", labels)


async def test_a_missing_config_map_is_told_once_and_filled_when_it_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    shared = Shared()
    one, metrics = keeper(shared)
    await one.look("argocd")
    await one.look("argocd")
    (record,) = caplog.records
    assert "install Argo CD in argocd, or correct argocd.namespaces" in record.message
    assert (shared.given, count(metrics)) == ([], 0)
    shared.configs["argocd"] = config({})
    await one.look("argocd")
    await one.look("argocd")
    assert (len(shared.given), count(metrics)) == (1, 2)
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


async def test_a_rule_that_stays_is_told_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    one, metrics = keeper(Shared(argocd=config({ENGINE_KEY: THEIRS})))
    await one.look("argocd")
    (record,) = caplog.records
    assert (
        f"for LLMEngine, which stays: to get Pitcrew's, remove it ({ENGINE_KEY}" in record.message
    )
    assert count(metrics) == 1


@pytest.mark.parametrize("error", [Rejected(403, "configmaps is forbidden"), Conflict("409: helm")])
async def test_a_refusal_is_told_and_tried_again(
    error: ClusterError, caplog: pytest.LogCaptureFixture
) -> None:
    shared = Shared(argocd=config({}))
    shared.error = error
    one, metrics = keeper(shared)
    await one.look("argocd")
    assert str(error) in caplog.text
    assert count(metrics) == 0
    shared.error = None
    await one.look("argocd")
    assert count(metrics) == 2


async def test_one_argo_cd_out_of_reach_keeps_no_other_from_its_rules() -> None:
    shared = Shared(team=config({}, namespace="team"))
    shared.configs["argocd"] = Rejected(403, "no")
    one, metrics = keeper(shared, "argocd", "team")
    async with asyncio.timeout(5):
        task = asyncio.create_task(one.run())
        await shared.news.wait()
    task.cancel()
    assert count(metrics, "argocd") == 0
    assert [one["metadata"]["namespace"] for one in shared.given] == ["team"]


@pytest.mark.looptime
async def test_a_standby_asks_nothing() -> None:
    shared = Shared(argocd=config({}))
    one, _ = keeper(shared, leads=False)
    task = asyncio.create_task(one.run())
    await asyncio.sleep(600)
    task.cancel()
    assert shared.reads == 0
