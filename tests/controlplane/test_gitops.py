"""What Argo CD and Flux make of our resources, by their own code, and how Argo CD comes to its rules.

The resources are real ones, led by a real operator; Argo CD's settings are read by its own code from the
`argocd-cm` that the operator wrote.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import config as configuration
from devcluster import golang
from devcluster.artefacts import ensure
from devcluster.controlplane import ControlPlane
from devcluster.machine import go_version
from pitcrew_operator.argocd.rules import CONFIG, KEYS, RULE, key_of
from pitcrew_operator.kinds import CONFIG_MAP, DEPLOYMENT, ENGINE, Kind, at
from tests.controlplane.api import Admin, Object
from tests.controlplane.kubelet import Kubelet
from tests.controlplane.process import OperatorProcess
from tests.controlplane.rights import apply, give_rights, limited, make_namespaces
from tests.controlplane.test_absence import create, until
from tests.property.operator.fake_builder import FakeBuilder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

HUB = {"model": {"huggingFace": {"repo": "acme/tiny"}}}
WORDS = ("Ready", "Reconciling", "Stalled")
OFTEN = {"PITCREW_ARGOCD_SECONDS": "0.2"}


@pytest.fixture(scope="session")
def gitops() -> Path:
    """The program that answers as Argo CD and Flux do."""
    config = configuration.from_environment(os.environ, Path.home())
    return ensure(config, golang.gitops(go_version())) / "bin" / golang.GITOPS_PROGRAM


def argo_config(data: dict[str, str]) -> Object:
    """An `argocd-cm` as Argo CD's own manifests have it."""
    labels = {"app.kubernetes.io/name": CONFIG, "app.kubernetes.io/part-of": "argocd"}
    metadata = {"name": CONFIG, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def held(admin: Admin, namespace: str) -> dict[str, str]:
    found = await admin.get(CONFIG_MAP, namespace, CONFIG)
    return {} if found is None else dict(found.get("data") or {})


def says(log: Path, words: str, times: int = 1) -> Callable[[], Awaitable[bool]]:
    """Whether an operator has logged this so often."""

    def count() -> int:
        return log.read_text().count(words) if log.exists() else 0

    async def look() -> bool:
        return await asyncio.to_thread(count) >= times

    return look


def holds(admin: Admin, namespace: str, data: dict[str, str]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await held(admin, namespace) == data

    return look


async def test_operator_gives_the_rules_and_leaves_what_is_not_its_own(
    plane: ControlPlane, admin: Admin, tmp_path: Path
) -> None:
    space = "argocd-late"
    await make_namespaces(admin, space)
    token = await give_rights(plane, admin, "--set", f"argocd.namespaces={{{space}}}")
    how = limited(plane, tmp_path, "rules", token, PITCREW_ARGOCD_NAMESPACES=space, **OFTEN)
    theirs = {"url": "https://argocd.example", key_of(DEPLOYMENT): "return {status = 'Healthy'}"}
    ours = dict.fromkeys(KEYS, RULE)
    with OperatorProcess(how):
        await until(says(how.log, f"there is no ConfigMap {space}/{CONFIG}"))
        assert await admin.get(CONFIG_MAP, space, CONFIG) is None
        await admin.create(CONFIG_MAP, space, argo_config(theirs))
        await until(holds(admin, space, theirs | {key_of(ENGINE): RULE}))
        await until(says(how.log, "for LLMDeployment, which stays"))
        # Who gave the other rule takes it back.
        await admin.merge(CONFIG_MAP, space, CONFIG, {"data": {key_of(DEPLOYMENT): None}})
        await until(holds(admin, space, {"url": theirs["url"]} | ours))
        # Who keeps the ConfigMap as Helm and Argo CD do does not name them.
        for number, options in enumerate(((), ("--server-side", "--force-conflicts"))):
            kept = argo_config({"url": f"https://{number}.example"})
            apply(plane, [kept], "--namespace", space, *options)
            assert await held(admin, space) == kept["data"] | ours
        # Who writes it whole takes them away for a moment.
        fresh = argo_config({"url": "https://other.example"})
        await admin.call("PUT", CONFIG_MAP.path(space, CONFIG), fresh)
        await until(holds(admin, space, {"url": "https://other.example"} | ours))
        version = await _version(admin, space)
    told = how.log.read_text().count(f"{space}/{CONFIG} has our health rules")
    with OperatorProcess(how):
        await until(says(how.log, f"{space}/{CONFIG} has our health rules", times=told + 1))
        assert await _version(admin, space) == version, "a restart writes nothing anew"
    assert "forbidden" not in how.log.read_text()
    _take_back(plane, space)
    assert await held(admin, space) == {"url": "https://other.example"}


def _take_back(plane: ControlPlane, namespace: str) -> None:
    """What docs/gitops.md says to do after an uninstall."""
    kubectl = f"{plane.kubectl} --kubeconfig {plane.kubeconfig} -n {namespace}"
    command = (
        f"{kubectl} create configmap {CONFIG} --dry-run=client -o yaml"
        f" | {kubectl} apply --server-side --field-manager=pitcrew -f -"
    )
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)


async def _version(admin: Admin, namespace: str) -> str:
    found = await admin.get(CONFIG_MAP, namespace, CONFIG) or {}
    return str(found["metadata"]["resourceVersion"])


@asynccontextmanager
async def argo_cd(
    plane: ControlPlane, admin: Admin, directory: Path, name: str
) -> AsyncIterator[tuple[str, str, OperatorProcess]]:
    """An Argo CD's namespace, an application's, and an operator with the chart's rights in both."""
    argo, space = f"{name}-argocd", f"{name}-app"
    await make_namespaces(admin, argo, space)
    await admin.create(CONFIG_MAP, argo, argo_config({}))
    token = await give_rights(plane, admin, "--set", f"argocd.namespaces={{{argo}}}")
    how = limited(plane, directory, name, token, PITCREW_ARGOCD_NAMESPACES=argo, **OFTEN)
    with OperatorProcess(how) as operator:
        await until(holds(admin, argo, dict.fromkeys(KEYS, RULE)))
        yield argo, space, operator
    for kind in (DEPLOYMENT, ENGINE):
        for item in await admin.list(kind, space):
            await admin.delete(kind, space, item["metadata"]["name"])


@asynccontextmanager
async def nodes(admin: Admin) -> AsyncIterator[None]:
    task = asyncio.create_task(Kubelet(admin, FakeBuilder()).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def told(program: Path, plane: ControlPlane, *words: str, stdin: str = "") -> dict[str, Any]:
    """What the program answers."""
    env = os.environ | {"KUBECONFIG": str(plane.kubeconfig)}
    done = subprocess.run(
        [program, *words], env=env, input=stdin, stdout=subprocess.PIPE, text=True, check=True
    )
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def reason(
    admin: Admin, kind: Kind, space: str, name: str, word: str
) -> Callable[[], Awaitable[bool]]:
    """Whether the present spec has come to this."""

    async def look() -> bool:
        found = await admin.get(kind, space, name) or {}
        status = found.get("status") or {}
        is_current = status.get("observedGeneration") == at(found, "metadata", "generation")
        told = [c["reason"] for c in _conditions(found) if c["status"] == "True"]
        return is_current and word in told

    return look


def _conditions(found: Object) -> list[Object]:
    return list((found.get("status") or {}).get("conditions") or ())


NOT_SEEN = ("Progressing", "InProgress")
SAID = {
    "LLMEngine/proven": ("Healthy", "Current"),
    "LLMEngine/frozen": ("Healthy", "Current"),
    "LLMEngine/held": ("Suspended", "Failed"),
    "LLMEngine/waits": ("Progressing", "InProgress"),
    "LLMDeployment/serves": ("Healthy", "Current"),
    "LLMDeployment/paused": ("Suspended", "InProgress"),
    "LLMDeployment/early": ("Progressing", "InProgress"),
    "LLMDeployment/wrong": ("Degraded", "Failed"),
}


async def test_argo_cd_and_flux_say_of_each_resource_what_it_says_of_itself(
    plane: ControlPlane, admin: Admin, tmp_path: Path, gitops: Path
) -> None:
    async with nodes(admin), argo_cd(plane, admin, tmp_path, "says") as (argo, space, operator):
        await _all_situations(admin, space)
        said = told(gitops, plane, "health", argo, space)
        assert {name: (one["argo"], one["flux"]) for name, one in said.items()} == SAID
        for name, one in said.items():
            condition = await _true_condition(admin, space, name)
            assert one["argoMessage"] == f"{condition['reason']}: {condition['message']}"
        # Without a rule Argo CD has no word for what it does not know, and takes it for healthy.
        await make_namespaces(admin, "says-nothing")
        await admin.create(CONFIG_MAP, "says-nothing", argo_config({}))
        assert {
            one["argo"] for one in told(gitops, plane, "health", "says-nothing", space).values()
        } == {""}
        # Nobody looks any more.
        operator.kill()
        change = {"spec": {"runtime": {"drainSeconds": 33}}}
        await admin.merge(DEPLOYMENT, space, "serves", change)
        await admin.merge(DEPLOYMENT, space, "wrong", change)
        await create(admin, space, ENGINE, "new", HUB)
        said = told(gitops, plane, "health", argo, space)
        for name in ("LLMDeployment/serves", "LLMDeployment/wrong", "LLMEngine/new"):
            assert (said[name]["argo"], said[name]["flux"]) == NOT_SEEN, name
            assert said[name]["argoMessage"] == "the operator has not looked at this spec yet"


async def _all_situations(admin: Admin, space: str) -> None:
    await create(admin, space, ENGINE, "proven", HUB)
    await create(admin, space, ENGINE, "frozen", HUB)
    await create(admin, space, ENGINE, "held", HUB | {"suspend": True})
    volume = {"model": {"volume": {"claimName": "none", "path": "x"}}}
    await create(admin, space, ENGINE, "waits", volume)
    served = {"engineRef": {"name": "proven"}}
    await create(admin, space, DEPLOYMENT, "serves", served)
    await create(admin, space, DEPLOYMENT, "paused", served)
    await create(admin, space, DEPLOYMENT, "early", {"engineRef": {"name": "none"}})
    wrong = {"engineRef": {"name": "proven", "version": "0" * 12}}
    await create(admin, space, DEPLOYMENT, "wrong", wrong)
    await until(reason(admin, ENGINE, space, "frozen", "EngineReady"))
    await until(reason(admin, DEPLOYMENT, space, "paused", "Serving"))
    await admin.merge(ENGINE, space, "frozen", {"spec": {"suspend": True}})
    change = {"rollout": {"paused": True}, "runtime": {"drainSeconds": 31}}
    await admin.merge(DEPLOYMENT, space, "paused", {"spec": change})
    for kind, name, word in (
        (ENGINE, "proven", "EngineReady"),
        (ENGINE, "frozen", "EngineReady"),
        (ENGINE, "held", "Suspended"),
        (ENGINE, "waits", "SourceVolumeNotFound"),
        (DEPLOYMENT, "serves", "Serving"),
        (DEPLOYMENT, "early", "EngineNotFound"),
        (DEPLOYMENT, "wrong", "VersionNotFound"),
        (DEPLOYMENT, "paused", "RolloutPaused"),
    ):
        await until(reason(admin, kind, space, name, word))


async def _true_condition(admin: Admin, space: str, name: str) -> Object:
    kind = {kind.kind: kind for kind in (ENGINE, DEPLOYMENT)}[name.partition("/")[0]]
    found = await admin.get(kind, space, name.partition("/")[2]) or {}
    (one,) = [c for c in _conditions(found) if c["type"] in WORDS and c["status"] == "True"]
    return one


FULL: list[tuple[Kind, str, Object]] = [
    (
        ENGINE,
        "full",
        HUB
        | {
            "adapters": [{"huggingFace": {"repo": "acme/adapter"}}],
            "build": {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
            "proof": {
                "prompts": {"configMap": {"name": "held-out", "key": "a.jsonl"}},
                "tasks": [
                    {
                        "metric": "bleu",
                        "prompts": {"configMap": {"name": "tasks", "key": "a.jsonl"}},
                    }
                ],
            },
            "rebuildPolicy": {"mode": "Manual"},
        },
    ),
    (
        DEPLOYMENT,
        "full",
        {
            "engineRef": {"name": "full"},
            "runtime": {
                "topologySpreadConstraints": [{"topologyKey": "zone"}],
                "resources": {"limits": {"memory": "0.5Gi", "cpu": 1}},
            },
            "rollout": {"canary": {"steps": [{"weight": 10}, {"weight": 50}], "analysis": {}}},
            "service": {"port": 80},
        },
    ),
]


async def test_argo_cd_finds_no_difference_in_what_it_has_applied(
    plane: ControlPlane, admin: Admin, tmp_path: Path, gitops: Path
) -> None:
    async with argo_cd(plane, admin, tmp_path, "same") as (argo, space, _):
        parts = [_of_wave(0, kind, space, name, spec) for kind, name, spec in FULL]
        apply(plane, parts)
        await until(reason(admin, DEPLOYMENT, space, "full", "EngineNotReady"))
        answer = told(gitops, plane, "diff", argo, space, stdin=yaml.safe_dump_all(parts))
        assert answer == {"LLMEngine/full": False, "LLMDeployment/full": False}
        parts[1]["spec"]["service"]["port"] = 81
        answer = told(gitops, plane, "diff", argo, space, stdin=yaml.safe_dump_all(parts))
        assert answer == {"LLMEngine/full": False, "LLMDeployment/full": True}


@asynccontextmanager
async def syncing(
    program: Path, plane: ControlPlane, argo: str, space: str, parts: list[Object]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Argo CD's own engine at work on the manifests."""
    pipe = asyncio.subprocess.PIPE
    env = os.environ | {"KUBECONFIG": str(plane.kubeconfig)}
    words = (program, "sync", argo, space)
    process = await asyncio.create_subprocess_exec(*words, env=env, stdin=pipe)
    assert process.stdin is not None
    process.stdin.write(yaml.safe_dump_all(parts).encode())
    process.stdin.close()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_wave_waits_until_the_engine_of_the_wave_before_is_proven(
    plane: ControlPlane, admin: Admin, tmp_path: Path, gitops: Path
) -> None:
    async with argo_cd(plane, admin, tmp_path, "waves") as (argo, space, _):
        served = {"engineRef": {"name": "tiny"}}
        parts = [
            _of_wave(0, ENGINE, space, "tiny", HUB),
            _of_wave(1, DEPLOYMENT, space, "chat", served),
        ]
        async with syncing(gitops, plane, argo, space, parts) as sync:
            # Without nodes nothing is built.
            await until(reason(admin, ENGINE, space, "tiny", "Resolving"))
            assert await admin.get(DEPLOYMENT, space, "chat") is None
            async with nodes(admin):
                assert await sync.wait() == 0
        engine = await admin.get(ENGINE, space, "tiny") or {}
        chat = await admin.get(DEPLOYMENT, space, "chat") or {}
        (proven,) = [c for c in _conditions(engine) if c["type"] == "Ready"]
        assert proven["status"] == "True"
        assert chat["metadata"]["creationTimestamp"] >= proven["lastTransitionTime"]


def _of_wave(wave: int, kind: Kind, namespace: str, name: str, spec: Object) -> Object:
    notes = {"argocd.argoproj.io/sync-wave": str(wave)}
    metadata = {"namespace": namespace, "name": name, "annotations": notes}
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": metadata,
        "spec": spec,
    }
