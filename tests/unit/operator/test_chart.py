"""The chart, as far as it can be read without helm, and as helm renders it where there is one."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pitcrew_operator.argocd.rules import CONFIG
from pitcrew_operator.config import PREFIX, Config
from pitcrew_operator.kinds import (
    DISRUPTION_BUDGET,
    EVENT,
    JOB,
    NODE,
    OPTIONAL,
    OWNERS,
    POD,
    SERVICE,
    WATCHED,
    WORKLOAD,
    Kind,
)

CHART = Path(__file__).resolve().parents[3] / "helm" / "pitcrew"


def helm() -> str | None:
    """A helm on PATH, else the development cluster's own, if it was built."""
    built = Path.home() / ".cache" / "pitcrew" / "bin" / "helm"
    return shutil.which("helm") or (str(built) if built.exists() else None)


needs_helm = pytest.mark.skipif(
    helm() is None, reason="no helm: `python3 -m devcluster up` builds one"
)


def render(*options: str) -> list[dict[str, Any]]:
    """The chart's objects."""
    command = [helm() or "helm", "template", "pitcrew", str(CHART), "--namespace", "system"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in objects if item["kind"] == kind]


def test_every_setting_that_the_chart_sets_exists() -> None:
    text = (CHART / "templates" / "deployment.yaml").read_text()
    named = set(re.findall(rf"name: ({PREFIX}\w+)", text))
    assert named
    assert named <= {PREFIX + field.upper() for field in Config.model_fields}


def test_values_and_their_schema_agree() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(value: Any, node: dict[str, Any], path: str) -> None:  # noqa: ANN401
        assert node.get("description") or node["type"] == "object", path
        if node.get("properties") is None:
            return
        assert value.keys() == node["properties"].keys() - {"global"}, path
        for name, child in value.items():
            compare(child, node["properties"][name], f"{path}.{name}")

    compare(values, schema, "")


def test_readme_names_every_value() -> None:
    text = (CHART / "README.md").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for group in values.keys() - {"nameOverride", "fullnameOverride"}:
        assert f"`{group}" in text, group


@needs_helm
def test_chart_lints() -> None:
    command = [helm() or "helm", "lint", "--strict", str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
def test_definitions_are_kept_or_left_out_as_asked() -> None:
    kept = of_kind(render(), "CustomResourceDefinition")
    assert len(kept) == 2
    assert all(c["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for c in kept)
    loose = of_kind(render("--set", "crds.keep=false"), "CustomResourceDefinition")
    assert all("annotations" not in c["metadata"] for c in loose)
    assert not of_kind(render("--set", "crds.enabled=false"), "CustomResourceDefinition")


@needs_helm
def test_definitions_survive_helm_unchanged() -> None:
    for rendered in of_kind(render(), "CustomResourceDefinition"):
        path = CHART / "files" / "crds" / f"{rendered['metadata']['name']}.yaml"
        assert rendered["spec"] == yaml.safe_load(path.read_text())["spec"]


@needs_helm
def test_rendered_settings_are_read_by_the_operator() -> None:
    (deployment,) = of_kind(render("--set", "imagePullSecrets={a,b}"), "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    values = {entry["name"]: entry.get("value", "pod") for entry in container["env"]}
    config = Config.from_env(values)
    assert (config.lease, config.identity) == ("system/pitcrew", "pod")
    assert config.builder_image == "pitcrew/builder:0.1.0"
    assert config.image_pull_secrets == ("a", "b")
    assert config.job_retention_seconds == 3600
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def verbs(rules: list[dict[str, Any]], kind: Kind, sub: str = "") -> set[str]:
    name = f"{kind.plural}/{sub}" if sub else kind.plural
    matching = [r for r in rules if kind.group in r["apiGroups"] and name in r["resources"]]
    return {verb for rule in matching for verb in rule["verbs"]}


@needs_helm
def test_role_allows_what_the_operator_does_and_no_more() -> None:
    roles = of_kind(render(), "ClusterRole")
    assert [role["metadata"]["name"] for role in roles] == ["pitcrew", "pitcrew-nodes"]
    assert verbs(roles[1]["rules"], NODE) == {"get", "list", "watch"}
    assert len(roles[1]["rules"]) == 1
    rules = roles[0]["rules"]
    for kind in WATCHED:
        assert verbs(rules, kind) >= {"get", "list", "watch"}, kind
    for kind in OWNERS:
        assert verbs(rules, kind) == {"get", "list", "watch"}
        assert "patch" in verbs(rules, kind, "status")
    assert verbs(rules, POD, "log") == {"get"}
    assert verbs(rules, POD) == {"get", "list", "watch"}
    assert verbs(rules, EVENT) == {"create"}
    deletable = [r["resources"] for r in rules if "delete" in r["verbs"]]
    own = (JOB, WORKLOAD, SERVICE, DISRUPTION_BUDGET, *OPTIONAL)
    assert sorted(deletable) == sorted([kind.plural] for kind in own)
    for kind in OPTIONAL:
        assert verbs(rules, kind) >= {"get", "list", "watch", "create", "patch"}, kind
    assert "*" not in json.dumps(rules)
    assert "secrets" not in json.dumps(rules)


@needs_helm
def test_listed_secrets_can_be_read_and_no_others() -> None:
    listed = '[{"namespace": "models", "name": "chat-keys"}]'
    objects = render("--set-json", f"operator.readableSecrets={listed}")
    roles = [r for r in of_kind(objects, "Role") if "secrets" in json.dumps(r["rules"])]
    assert [role["metadata"]["namespace"] for role in roles] == ["models"]
    assert roles[0]["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["chat-keys"],
            "verbs": ["get"],
        }
    ]
    (bound,) = [
        b
        for b in of_kind(objects, "RoleBinding")
        if b["roleRef"]["name"] == "pitcrew-reads-chat-keys"
    ]
    assert bound["metadata"]["namespace"] == "models"
    assert bound["subjects"] == [
        {"kind": "ServiceAccount", "name": "pitcrew", "namespace": "system"}
    ]


@needs_helm
def test_named_argo_cds_may_be_told_of_health_and_nothing_else() -> None:
    objects = render("--set", "argocd.namespaces={argocd,team}")
    roles = [r for r in of_kind(objects, "Role") if r["metadata"]["name"] == "pitcrew-argocd"]
    assert [role["metadata"]["namespace"] for role in roles] == ["argocd", "team"]
    for role in roles:
        assert role["rules"] == [
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [CONFIG],
                "verbs": ["get", "patch"],
            }
        ]
    bindings = of_kind(objects, "RoleBinding")
    bound = [b for b in bindings if b["roleRef"]["name"] == "pitcrew-argocd"]
    assert [one["metadata"]["namespace"] for one in bound] == ["argocd", "team"]
    assert all(one["subjects"][0]["namespace"] == "system" for one in bound)
    (deployment,) = of_kind(objects, "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    values = {entry["name"]: entry.get("value", "pod") for entry in environment}
    assert Config.from_env(values).argocd_namespaces == ("argocd", "team")
    assert "argocd" not in json.dumps(render()).lower(), "off, unless it is asked for"


@needs_helm
def test_listed_namespaces_get_roles_and_no_cluster_role() -> None:
    objects = render("--set", "watchNamespaces={a,b}")
    (nodes,) = of_kind(objects, "ClusterRole")
    assert [rule["resources"] for rule in nodes["rules"]] == [["nodes"]]
    places = [role["metadata"]["namespace"] for role in of_kind(objects, "Role")]
    assert places == ["a", "b", "system"]  # the last one is for the Lease
    (deployment,) = of_kind(objects, "Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments == ["run", "--namespace=a", "--namespace=b"]


@needs_helm
def test_without_a_look_at_nodes_nothing_outside_the_namespaces_is_allowed() -> None:
    objects = render("--set", "watchNamespaces={a}", "--set", "operator.watchNodes=false")
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    (deployment,) = of_kind(objects, "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "PITCREW_WATCH_NODES", "value": "false"} in environment


@needs_helm
def test_an_image_may_be_pinned_by_its_digest() -> None:
    digest = f"sha256:{'7c' * 32}"
    (deployment,) = of_kind(render("--set", f"images.runtime.digest={digest}"), "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "PITCREW_RUNTIME_IMAGE", "value": f"pitcrew/runtime@{digest}"} in environment


@needs_helm
def test_names_that_look_like_numbers_stay_names() -> None:
    objects = render(
        *("--set-string", "watchNamespaces={123}", "--set-string", "imagePullSecrets={456}"),
        *("--set-string", "engineStore.storageClassName=789"),
    )
    assert "123" in [role["metadata"]["namespace"] for role in of_kind(objects, "Role")]
    (deployment,) = of_kind(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "456"}]
    assert {"name": "PITCREW_STORE_CLASS", "value": "789"} in pod["containers"][0]["env"]


@needs_helm
@pytest.mark.parametrize(
    "wrong",
    [
        "crds.kept=true",
        "operator.workers=0",
        "engineStore.size=big",
        "images.builder.pullPolicy=x",
        "images.builder.digest=7c",
        "fullnameOverride=Upper",
        "operator.dcgm=null",
        "argocd.namespaces=argocd",
        "argocd.namespaces={Argo}",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    command = [helm() or "helm", "template", "pitcrew", str(CHART), "--set", wrong]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "values don't meet the specifications" in done.stderr


@needs_helm
def test_a_bucket_for_engines_reaches_the_operator() -> None:
    values = {
        "bucket": "engines",
        "endpoint": "https://s3.example:9000",
        "prefix": "a/b",
        "credentialsSecret": "s3-keys",
    }
    flags = [f"--set=engineStore.s3.{name}={value}" for name, value in values.items()]
    (deployment,) = of_kind(render(*flags), "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    values = {entry["name"]: entry.get("value", "pod") for entry in container["env"]}
    config = Config.from_env(values)
    assert (config.lease, config.identity) == ("system/pitcrew", "pod")
    assert config.store_s3 is not None
    assert config.store_s3.model_dump(by_alias=True, exclude_none=True) == {
        "bucket": "engines",
        "endpoint": "https://s3.example:9000",
        "prefix": "a/b",
        "credentialsSecretRef": {"name": "s3-keys"},
    }


@needs_helm
def test_two_replicas_are_spread_and_one_may_always_go() -> None:
    objects = render("--set", "operator.replicas=2")
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"
    pod = deployment["spec"]["template"]
    (term,) = pod["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    for selector in (term["podAffinityTerm"]["labelSelector"], budget["spec"]["selector"]):
        assert selector["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert not of_kind(render(), "PodDisruptionBudget")


@needs_helm
def test_operator_may_write_its_own_lease_and_no_other() -> None:
    (role,) = [r for r in of_kind(render(), "Role") if r["metadata"]["name"] == "pitcrew-lease"]
    assert role["metadata"]["namespace"] == "system"
    named, created = role["rules"]
    assert (named["resourceNames"], named["verbs"]) == (["pitcrew"], ["get", "update"])
    assert created["verbs"] == ["create"]
