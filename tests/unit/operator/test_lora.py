"""Room for adapters in an engine, and the adapters that a deployment serves in it."""

import pytest
from pydantic import ValidationError

from pitcrew_operator.api.deployment import LLMDeploymentSpec
from tests.unit.operator.factories import deployment, engine, workload_manifest

ADAPTERS = {
    "claimName": "loras",
    "modules": [{"name": "sql", "path": "team/sql"}, {"name": "org/chat", "path": "chat"}],
}


def test_room_for_adapters_reaches_the_builder() -> None:
    owner = engine({"lora": {"maxAdapters": 2, "targetModules": ["q_proj"]}})
    asked = owner.spec.build_spec().model_dump(by_alias=True)["lora"]
    assert asked == {"maxAdapters": 2, "maxRank": 16, "targetModules": ("q_proj",)}
    assert "lora" not in engine().spec.build_spec().model_dump(by_alias=True)


def _pod(adapters: dict[str, object]) -> dict[str, list[dict[str, object]]]:
    document = workload_manifest(deployment({"adapters": adapters}))
    pod: dict[str, list[dict[str, object]]] = document["spec"]["template"]["spec"]
    return pod


def test_pods_mount_adapters_read_only_and_are_told_their_names() -> None:
    pod = _pod(ADAPTERS)
    volume = {
        "name": "adapters",
        "persistentVolumeClaim": {"claimName": "loras", "readOnly": True},
    }
    assert volume in pod["volumes"]
    (container,) = pod["containers"]
    mounts, arguments = container["volumeMounts"], container["args"]
    assert isinstance(mounts, list)
    assert isinstance(arguments, list)
    assert {"name": "adapters", "mountPath": "/adapters", "readOnly": True} in mounts
    start = arguments.index("--lora-modules")
    assert arguments[start + 1 :] == ["sql=/adapters/team/sql", "org/chat=/adapters/chat"]


def test_clients_may_load_adapters_where_it_is_allowed() -> None:
    pod = _pod({"claimName": "loras", "runtimeUpdates": True, "maxInMemory": 4})
    (container,) = pod["containers"]
    arguments = container["args"]
    assert isinstance(arguments, list)
    assert "--lora-modules" not in arguments
    expected = ["--enable-runtime-lora", "--lora-root", "/adapters", "--max-cpu-loras", "4"]
    assert arguments[-5:] == expected


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([{"name": "x", "path": "../x"}], "path"),
        ([{"name": "x", "path": "/x"}], "path"),
        ([{"name": "x=y", "path": "x"}], "name"),
        ([{"name": "x", "path": "a"}, {"name": "x", "path": "b"}], "'x' is given twice"),
    ],
)
def test_adapters_that_cannot_be_served_are_refused(
    modules: list[dict[str, str]], told: str
) -> None:
    document = {
        "engineRef": {"name": "tiny"},
        "adapters": {"claimName": "loras", "modules": modules},
    }
    with pytest.raises(ValidationError, match=told):
        LLMDeploymentSpec.model_validate(document)
