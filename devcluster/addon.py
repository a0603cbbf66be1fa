"""What a cluster has only on request: controllers of others, built here and installed by their chart.

Nothing of an add-on is built, fetched or started before somebody asks for it, so `up` and the demo
stay as fast as they are without.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster import golang, node
from devcluster.artefacts import Artefact, ensure
from devcluster.cluster import apply, import_program
from devcluster.config import Config
from devcluster.errors import CommandError, DevclusterError
from devcluster.process import run, wait_until
from devcluster.progress import Stage

_READY_SECONDS = 120


@dataclass(frozen=True)
class Addon:
    """One add-on: a program, its chart, or manifests, as its artefact holds them."""

    artefact: Callable[[str], Artefact]
    probe: dict[str, Any] | None = None
    """An object that the API server admits, dry, once the add-on serves."""
    program: str = ""
    """Becomes an image of its own."""
    namespace: str = ""
    """Of the chart."""


ADDONS = {
    "lws": Addon(
        artefact=golang.lws,
        program=golang.LWS_PROGRAM,
        namespace="lws-system",
        probe={
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": "probe", "namespace": "default"},
            "spec": {
                "leaderWorkerTemplate": {
                    "workerTemplate": {"spec": {"containers": [{"name": "c", "image": "none"}]}}
                }
            },
        },
    ),
    "inference-extension": Addon(
        artefact=golang.inference_extension,
        probe={
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": "probe", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "probe"}},
                "targetPorts": [{"number": 8000}],
                "endpointPickerRef": {"name": "probe", "port": {"number": 9002}},
            },
        },
    ),
    "endpoint-picker": Addon(artefact=golang.endpoint_picker, program=golang.PICKER_PROGRAM),
}


def install(config: Config, name: str, go: str) -> str | None:
    """Install an add-on into the running cluster and wait until it serves; harmless when it does.

    `go` is the Go version that builds it. Returns the image of its program, if it has one: what the
    cluster then does with it may be the caller's matter.

    Raises:
        NotRunning: there is no running cluster.
        DevclusterError: it was not built, or does not serve in time.
    """
    node.require(config)
    addon = ADDONS[name]
    artefact = addon.artefact(go)
    made = ensure(config, artefact)
    with Stage(f"add-on {name} {artefact.version}"):
        # The tag follows the build: pods of another build are replaced.
        repository, tag = f"pitcrew.dev/devcluster/{name}", artefact.key[:12]
        if addon.program:
            import_program(config, f"{repository}:{tag}", made / "bin" / addon.program)
        if (made / "chart").is_dir():
            _helm(config, name, addon, made / "chart", values(repository, tag))
        if (made / "manifests").is_dir():
            apply(config, made / "manifests")
        if addon.probe is not None:
            _await(config, name, addon.probe)
    return f"{repository}:{tag}" if addon.program else None


def values(repository: str, tag: str) -> list[str]:
    """Values of the chart: our own image, and no more than a small node can spare."""
    return [
        f"image.manager.repository={repository}",
        f"image.manager.tag={tag}",
        "image.manager.pullPolicy=Never",
        "resources.requests.cpu=20m",
        "resources.requests.memory=64Mi",
    ]


def _helm(config: Config, name: str, addon: Addon, chart: Path, settings: list[str]) -> None:
    place: list[str | Path] = [
        "--kubeconfig",
        config.kubeconfig,
        "-n",
        addon.namespace,
        "--create-namespace",
    ]
    options = [word for setting in settings for word in ("--set", setting)]
    run([config.tools / "helm", "upgrade", "--install", name, chart, *place, *options])


def _await(config: Config, name: str, probe: dict[str, Any]) -> None:
    """Its webhooks have certificates of their own making, which takes them some seconds."""
    file = config.state / f"addon-{name}.json"
    file.write_text(json.dumps(probe))
    kubectl: list[str | Path] = [config.tools / "kubectl", "--kubeconfig", config.kubeconfig]
    said = ""

    def served() -> bool:
        nonlocal said
        try:
            run([*kubectl, "create", "--dry-run=server", "-f", file])
        except CommandError as error:
            said = str(error)
            return False
        return True

    try:
        if not wait_until(served, _READY_SECONDS, every=0.5):
            raise DevclusterError(f"{name} does not serve after {_READY_SECONDS} s: {said}")
    finally:
        file.unlink()
