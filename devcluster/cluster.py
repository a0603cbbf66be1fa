"""From nothing to a cluster that takes work, and back: the story of `up` and `down`."""

import platform
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from devcluster import archive, golang, node, pki, rootfs
from devcluster.api import Api, condition
from devcluster.artefacts import Artefact, ensure, locked
from devcluster.config import DATA, NODE, Config
from devcluster.debian import Mirror
from devcluster.errors import DevclusterError
from devcluster.process import run, wait_until
from devcluster.progress import Stage, clock, note
from devcluster.record import Record

SYSTEM_IMAGES = {
    "pitcrew.dev/devcluster/pause:1": "pause",
    "pitcrew.dev/devcluster/coredns:1": "coredns",
}


def up(config: Config, go: str, mirror: Mirror) -> Record:
    """Bring the cluster up, or finish what an interrupted `up` began; harmless when it is up.

    Raises:
        DevclusterError: some part did not come up in time; the message carries its log's end.
    """
    with locked(config.state / ".lock", "another up or down"):
        parts = make_parts(config, go, mirror)
        link_tools(config, parts)
        began = time.monotonic()
        found = node.running(config)
        started = node.open_way_in(config, found or _start(config, parts))
        _converge(config, started, parts)
        note(_summary(config, found, parts, time.monotonic() - began))
        return started


def _start(config: Config, parts: node.Parts) -> Record:
    node.stop(config)  # whatever an earlier start or a crash may have left
    pki.ensure(config, parts.addons / "bin" / "pki")
    return node.start(config, parts)


def _summary(config: Config, found: Record | None, parts: node.Parts, seconds: float) -> str:
    if not found:
        return f"cluster {config.name} is up after {clock(seconds)}"
    current = (str(parts.kubernetes), str(parts.addons))
    stale = (found.kubernetes, found.addons) != current
    hint = "; it runs an older build, which `down` and `up` would renew" if stale else ""
    return f"cluster {config.name} is up, and was before{hint}"


def make_parts(config: Config, go: str, mirror: Mirror) -> node.Parts:
    """Every artefact of a node, from the cache or made now."""

    def made(artefact: Artefact) -> Path:
        return ensure(config, artefact)

    return node.Parts(
        rootfs=made(rootfs.node(mirror)),
        addons=made(golang.addons(go)),
        kubernetes=made(golang.kubernetes(go)),
    )


def link_tools(config: Config, parts: node.Parts) -> None:
    """Point the links in the tools directory at this version's kubectl and helm."""
    config.tools.mkdir(parents=True, exist_ok=True)
    for tool, home in (("kubectl", parts.kubernetes), ("helm", parts.addons)):
        temporary = config.tools / f".{tool}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(home / "bin" / tool)
        temporary.replace(config.tools / tool)


def down(config: Config, *, keep: bool, purge: bool = False) -> None:
    """End the cluster. `keep` leaves its objects and volumes for the next `up`; `purge` takes all
    there is of it, its images too.

    Raises:
        DevclusterError: something could not be removed.
    """
    with locked(config.state / ".lock", "another up or down"):
        left = node.stop(config)
        if left:
            raise DevclusterError(
                f"still in use after {config.name} was ended: {', '.join(left)}; "
                "see who is in them with `cat .../cgroup.procs`, then run `down` again"
            )
        if keep and config.data.is_dir():
            (config.data / node.KEEP).touch()
            return
        shutil.rmtree(config.state if purge else config.data, ignore_errors=True)


def _converge(config: Config, started: Record, parts: node.Parts) -> None:
    api = Api(config.pki, started.port)
    with Stage("API server"):
        _await(config, started, api.ready, 90, "kube-apiserver")
    _import_system_images(config, parts)
    with Stage("add-ons: DNS and storage"):
        apply(config, DATA / "manifests")
    with Stage("node Ready"):
        _await(config, started, lambda: node_ready(api, started.started), 90, "kubelet")
    with Stage("cluster DNS"):
        _await(config, started, lambda: dns_ready(api), 90, "kubelet")


def node_ready(api: Api, since: float) -> bool:
    """Is the node Ready, by a heartbeat newer than `since` (seconds since the epoch)?

    A kept cluster's database still says Ready from its last run.
    """
    ready = condition(api.get(f"/api/v1/nodes/{NODE}"), "Ready")
    beat = ready.get("lastHeartbeatTime")
    return bool(
        ready.get("status") == "True"
        and beat
        and datetime.fromisoformat(beat).timestamp() > since - 1
    )


def dns_ready(api: Api) -> bool:
    """Does the cluster's DNS serve?"""
    path = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"
    return condition(api.get(path), "Available").get("status") == "True"


def _await(
    config: Config, started: Record, check: Callable[[], bool], seconds: float, component: str
) -> None:
    if wait_until(check, seconds, alive=lambda: started.init() is not None):
        return
    state = "the node ended" if started.init() is None else f"no answer in {seconds:.0f} s"
    log = node.tail(config, component) or node.tail(config, "init")
    raise DevclusterError(f"{state}; the last of {config.logs / component}.log:\n{log}")


def apply(config: Config, manifests: Path) -> None:
    """Apply a file or a directory of them."""
    kubectl: list[str | Path] = [config.tools / "kubectl", "--kubeconfig", config.kubeconfig]
    run([*kubectl, "apply", "--server-side", "--force-conflicts", "-f", manifests])


def _import_system_images(config: Config, parts: node.Parts) -> None:
    """Give containerd the two images that every cluster needs, if it does not hold them yet."""
    ready = ["sh", "-c", "until [ -e /run/components/containerd.ready ]; do sleep 0.05; done"]
    node.execute(config, ready)
    held = node.execute(config, ["ctr", "-n", "k8s.io", "images", "ls", "-q"]).split()
    for reference, program in SYSTEM_IMAGES.items():
        if reference not in held:
            import_program(config, reference, parts.addons / "bin" / program)


def import_program(config: Config, reference: str, program: Path) -> None:
    """Give containerd an image of one static program, which is its entry point."""
    path = config.state / f"{program.name}.tar"
    archive.write_program(path, reference, program, archive.MACHINES[platform.machine()])
    with path.open("rb") as stdin:
        node.execute(config, ["ctr", "-n", "k8s.io", "images", "import", "-"], stdin)
    path.unlink()
