"""Laying fields over a template, and which fields nobody may lay over it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_operator.manifests.overlay import overlaid
from pitcrew_operator.views import InvalidResource
from tests.unit.operator.factories import deployment, workload_manifest

POD = {
    "containers": [
        {"name": "runtime", "args": ["a", "b"], "env": [{"name": "HOME", "value": "/tmp"}]},
    ],
    "securityContext": {"runAsNonRoot": True, "runAsUser": 1},
}
DOCUMENTS = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: (
        st.dictionaries(st.sampled_from("abcd"), inner, max_size=3) | st.lists(inner, max_size=3)
    ),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


def test_objects_are_merged_and_null_removes() -> None:
    above = {"securityContext": {"runAsUser": None, "fsGroup": 3}, "hostNetwork": True}
    assert overlaid(POD, above) == {
        "containers": POD["containers"],
        "securityContext": {"runAsNonRoot": True, "fsGroup": 3},
        "hostNetwork": True,
    }


def test_containers_and_their_environment_are_merged_by_name() -> None:
    runtime = {"name": "runtime", "env": [{"name": "A", "value": "1"}], "tty": True}
    (first, second) = overlaid(POD, {"containers": [{"name": "proxy"}, runtime]})["containers"]
    assert second == {"name": "proxy"}
    assert first["args"] == ["a", "b"]
    assert [entry["name"] for entry in first["env"]] == ["HOME", "A"]
    assert first["tty"] is True


def test_lists_without_a_key_replace() -> None:
    below = {"dnsConfig": {"searches": ["a", "b"]}}
    assert overlaid(below, {"dnsConfig": {"searches": ["c"]}}) == {"dnsConfig": {"searches": ["c"]}}


@given(DOCUMENTS, DOCUMENTS)
def test_laying_over_twice_changes_nothing_more(below: Any, above: Any) -> None:  # noqa: ANN401
    once = overlaid(below, above)
    assert overlaid(once, above) == once
    assert overlaid(below, {}) == below


def template(**pod_template: object) -> dict[str, Any]:
    owner = deployment({"runtime": {"podTemplate": pod_template}})
    found: dict[str, Any] = workload_manifest(owner)["spec"]["template"]
    return found


def test_a_sidecar_a_volume_and_affinity_join_our_own() -> None:
    pod = template(
        metadata={"labels": {"team": "a"}, "annotations": {"example.com/scrape": "true"}},
        spec={
            "affinity": {"nodeAffinity": {}},
            "volumes": [{"name": "certificates", "secret": {"secretName": "ca"}}],
            "containers": [
                {"name": "proxy", "image": "proxy:1"},
                {
                    "name": "runtime",
                    "env": [{"name": "OMP_NUM_THREADS", "value": "4"}],
                    "volumeMounts": [{"name": "certificates", "mountPath": "/certificates"}],
                },
            ],
            "initContainers": [{"name": "engine", "resources": {"limits": {"memory": "1Gi"}}}],
        },
    )
    spec = pod["spec"]
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["pitcrew.dev/deployment"] == "chat"
    assert [container["name"] for container in spec["containers"]] == ["runtime", "proxy"]
    assert spec["containers"][0]["command"] == ["pitcrew-serve"]
    assert [m["mountPath"] for m in spec["containers"][0]["volumeMounts"]][-1] == "/certificates"
    assert [volume["name"] for volume in spec["volumes"]] == ["engine", "tmp", "certificates"]
    assert spec["initContainers"][0]["args"][0] == "verify"
    assert spec["initContainers"][0]["resources"] == {"limits": {"memory": "1Gi"}}


def runtime(**fields: object) -> dict[str, Any]:
    return {"containers": [{"name": "runtime", **fields}]}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "selector": ({"nodeSelector": {"a": "b"}}, "spec.nodeSelector", "spec.runtime.nodeSelector"),
    "grace": (
        {"terminationGracePeriodSeconds": 1},
        "spec.terminationGracePeriodSeconds",
        "spec.runtime.drainSeconds",
    ),
    "args": (runtime(args=["--help"]), "spec.containers[runtime].args", "leave it out"),
    "image": (runtime(image="x"), "spec.containers[runtime].image", "spec.runtime.image"),
    "home": (runtime(env=[{"name": "HOME"}]), "spec.containers[runtime].env[HOME]", "leave it"),
    "port": (runtime(ports=[{"containerPort": 8000}]), "spec.containers[runtime].ports", "others"),
    "mount": (
        runtime(volumeMounts=[{"name": "x", "mountPath": "/engine/"}]),
        "spec.containers[runtime].volumeMounts",
        "another mountPath",
    ),
    "verification": (
        {"initContainers": [{"name": "engine", "command": ["true"]}]},
        "spec.initContainers[engine].command",
        "leave it out",
    ),
    "volume": ({"volumes": [{"name": "engine"}]}, "spec.volumes[engine]", "another name"),
    "nameless": ({"containers": [{"image": "x"}]}, "spec.containers", "needs a name"),
    "crooked mount": (
        runtime(volumeMounts=[{"name": "x", "mountPath": "//engine/../engine"}]),
        "spec.containers[runtime].volumeMounts: /engine is",
        "another mountPath",
    ),
    "certificates": ({"volumes": [{"name": "ranks-tls"}]}, "spec.volumes[ranks-tls]", "another"),
    "certificates' place": (
        runtime(volumeMounts=[{"name": "x", "mountPath": "/ranks-tls"}]),
        "/ranks-tls is the operator's",
        "another mountPath",
    ),
    "no verification": ({"initContainers": None}, "spec.initContainers", "a list of objects"),
    "no volumes": ({"volumes": None}, "spec.volumes", "must be a list of objects"),
    "no mounts": (
        runtime(volumeMounts=None),
        "spec.containers[runtime].volumeMounts",
        "must be a list of objects",
    ),
    "no ports": (runtime(ports=None), "spec.containers[runtime].ports", "a list of objects"),
    "no environment": (runtime(env=None), "spec.containers[runtime].env", "a list of objects"),
    "no keys": (
        {"initContainers": [{"name": "engine", "env": None}]},
        "spec.initContainers[engine].env",
        "a list of objects",
    ),
    "no list": ({"containers": 5}, "spec.containers", "must be a list of objects"),
    "no objects": ({"volumes": ["a"]}, "spec.volumes", "must be a list of objects"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_operator_owns_is_refused_with_the_remedy(case: str) -> None:
    spec, field, remedy = REFUSED[case]
    with pytest.raises(InvalidResource) as refused:
        template(spec=spec)
    assert refused.value.problem.startswith("spec.runtime.podTemplate: ")
    assert field in refused.value.problem
    assert remedy in refused.value.problem


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_keys_of_ours_are_refused(field: str) -> None:
    with pytest.raises(InvalidResource, match=f"metadata.{field}"):
        template(metadata={field: {"pitcrew.dev/deployment": "other"}})
