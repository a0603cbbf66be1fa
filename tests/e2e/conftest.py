"""A real cluster for the tests: reused if one is up, else started here and ended after the run.

Another cluster than the devcluster: set PITCREW_E2E_KUBECONFIG to its kubeconfig; its images must
be there already. Without either (no root, no Go) the tests are skipped, with the reason.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

REPO = Path(__file__).resolve().parents[2]
Answer = Any  # parsed JSON, or text
TARGETS = ("operator", "builder", "runtime")


class Tool(Protocol):
    """A command line client: returns parsed JSON for `-o json`, else what it printed."""

    def __call__(self, *args: str, stdin: str | None = None, check: bool = True) -> Answer: ...


@dataclass(frozen=True)
class Cluster:
    """A cluster that takes work. `images` are the project's images as pods name them."""

    kubeconfig: Path
    env: Mapping[str, str]
    images: Mapping[str, str] = field(
        default_factory=lambda: {target: f"pitcrew/{target}:dev" for target in TARGETS}
    )

    def volume(self, name: str, directory: Path, namespace: str) -> None:
        """Offer a directory of this machine to the namespace's pods as the read-only claim `name`."""
        devcluster("volume", name, str(directory), "--namespace", namespace)

    def load(self, image: str) -> None:
        """Give the cluster an image of ours, or a docker-archive."""
        devcluster("load", image)


def devcluster(*args: str, env: Mapping[str, str] | None = None, stdin: str | None = None) -> str:
    """Run one devcluster command from the repository; its progress goes to the test's stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "devcluster", *args],
        cwd=REPO,
        env={**os.environ, **(env or {})},
        input=stdin,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _tool(name: str, cluster: Cluster) -> Tool:
    def call(*args: str, stdin: str | None = None, check: bool = True) -> Answer:
        done = subprocess.run(
            [name, *args],
            env={**os.environ, **cluster.env},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{name} {' '.join(args)}: {done.stderr.strip()}")
        wants_json = "json" in args and done.returncode == 0
        return json.loads(done.stdout) if wants_json else done.stdout

    return call


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with the project's images built and loaded."""
    if given := os.environ.get("PITCREW_E2E_KUBECONFIG"):
        yield Cluster(Path(given), {"KUBECONFIG": given})
        return
    if os.getuid() != 0:
        pytest.skip("the devcluster needs root; set PITCREW_E2E_KUBECONFIG to use another cluster")
    ours = (
        subprocess.run(
            [sys.executable, "-m", "devcluster", "status"],
            cwd=REPO,
            check=False,
            capture_output=True,
        ).returncode
        != 0
    )
    devcluster("up")
    try:
        devcluster("build")
        kubeconfig = Path(devcluster("kubeconfig"))
        path = f"{devcluster('tools')}:{os.environ['PATH']}"
        yield Cluster(kubeconfig, {"KUBECONFIG": str(kubeconfig), "PATH": path})
    finally:
        if ours:
            devcluster("down")


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Tool:
    """kubectl("get", "pods", "-n", ns, "-o", "json") -> dict; raises AssertionError on failure."""
    return _tool("kubectl", cluster)


@pytest.fixture(scope="session")
def helm(cluster: Cluster) -> Tool:
    """helm("upgrade", "--install", ...) -> what it printed."""
    return _tool("helm", cluster)


@pytest.fixture(scope="session")
def pitcrew(cluster: Cluster, helm: Tool) -> None:
    """The chart, installed or upgraded to what this repository holds."""
    tags = [f"--set=images.{target}.tag=dev" for target in TARGETS]
    helm(
        *("upgrade", "--install", "pitcrew", str(REPO / "helm" / "pitcrew")),
        *("--namespace", "pitcrew-system", "--create-namespace"),
        *("--wait", "--timeout", "120s", *tags),
    )


@pytest.fixture
def namespace(kubectl: Tool) -> Iterator[str]:
    """A namespace of the test's own, gone after it."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Answer]:
    """eventually(check, seconds=60) -> the first truthy answer of `check`, polled until then."""

    def poll(check: Callable[[], Answer], seconds: float = 60.0, every: float = 0.2) -> Answer:
        deadline = time.monotonic() + seconds
        while True:
            answer = check()
            if answer:
                return answer
            assert time.monotonic() < deadline, f"still {answer!r} after {seconds:.0f} s"
            time.sleep(every)

    return poll
