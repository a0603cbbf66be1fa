"""The development cluster comes, works and goes without a trace; on a cluster of the test's own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
NAME = "lifecycle"
PORT = "26557"
MARKS = (f"/clusters/{NAME}", f"PITCREW_CLUSTER={NAME}")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(os.getuid() != 0, reason="the devcluster needs root"),
    pytest.mark.skipif("PITCREW_E2E_KUBECONFIG" in os.environ, reason="another cluster is used"),
]

PODS = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: scratch}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: probe}
spec:
  restartPolicy: Never
  securityContext: {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001}
  containers:
    - name: probe
      image: pitcrew/operator:dev
      imagePullPolicy: Never
      command: [python3, -c]
      args:
        - |
          import pathlib, socket
          print(socket.gethostbyname("kubernetes.default.svc.cluster.local"))
          print(pathlib.Path("/models/model.txt").read_text())
          pathlib.Path("/scratch/written").write_text("yes")
          try:
              pathlib.Path("/models/intruder").write_text("no")
          except OSError as error:
              print(type(error).__name__)
      securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false}
      volumeMounts:
        - {name: models, mountPath: /models, readOnly: true}
        - {name: scratch, mountPath: /scratch}
  volumes:
    - {name: models, persistentVolumeClaim: {claimName: models, readOnly: true}}
    - {name: scratch, persistentVolumeClaim: {claimName: scratch}}
"""


@dataclass(frozen=True)
class Shell:
    """The devcluster's command line, on the test's own cluster."""

    env: Mapping[str, str]

    def __call__(self, *args: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "devcluster", *args]
        return subprocess.run(
            command, cwd=REPO, env=self.env, check=check, capture_output=True, text=True
        )

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        home = self("tools").stdout.strip()
        command = [f"{home}/kubectl", "--kubeconfig", self("kubeconfig").stdout.strip(), *args]
        done = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@dataclass(frozen=True)
class Traces:
    """All that a cluster could leave behind outside its own directory."""

    mounts: frozenset[str]
    links: frozenset[str]
    groups: frozenset[str]
    processes: frozenset[str]


def traces() -> Traces:
    """What is there now that bears the cluster's name, and every mount and link of the machine."""
    processes = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes()
            if any(mark.encode() in environment for mark in MARKS):
                processes.add(path.parent.name)
        except OSError:
            continue
    groups = {str(path) for path in Path("/sys/fs/cgroup").rglob(f"pitcrew-{NAME}")}
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return Traces(
        mounts=frozenset(f"{fields[3]} {fields[4]}" for fields in mounts),
        links=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
        groups=frozenset(groups),
        processes=frozenset(processes),
    )


@pytest.fixture
def shell() -> Iterator[Shell]:
    shell = Shell({**os.environ, "PITCREW_CLUSTER": NAME, "PITCREW_PORT": PORT})
    shell("down")
    yield shell
    shell("down", "--purge")


def test_comes_works_and_goes_without_a_trace(shell: Shell, tmp_path: Path) -> None:
    before = traces()
    assert shell("status", check=False).returncode == 1
    shell("up")
    assert traces() != before
    assert shell("status").returncode == 0
    assert "is up" in shell("up").stderr

    shell("build", "--target", "operator")
    (tmp_path / "model.txt").write_text("weights")
    shell("volume", "models", str(tmp_path))
    shell.kubectl("apply", "-f", "-", stdin=PODS)
    phase = "jsonpath={.status.phase}=Succeeded"
    shell.kubectl("wait", "pod/probe", f"--for={phase}", "--timeout=90s")
    assert shell.kubectl("logs", "probe").splitlines() == ["10.96.0.1", "weights", "OSError"]

    (tmp_path / "model.txt").write_text("better weights")
    shell("volume", "models", str(tmp_path))
    assert shell.kubectl("get", "pvc", "models", "-o", "jsonpath={.status.phase}") == "Bound"

    directory = _volume_of(shell, "scratch")
    assert (directory / "written").read_text() == "yes"
    shell.kubectl("delete", "pod/probe", "pvc/scratch", "--wait=true")
    _eventually(lambda: not directory.exists())

    shell("down")
    assert traces() == before
    shell("down")


def test_keeps_objects_and_volumes_only_when_asked(shell: Shell) -> None:
    shell("up")
    shell.kubectl("create", "configmap", "memory", "--from-literal=a=b")
    shell("down", "--keep")
    shell("up")
    assert shell.kubectl("get", "configmap", "memory", "-o", "jsonpath={.data.a}") == "b"
    shell("down")
    shell("up")
    assert "memory" not in shell.kubectl("get", "configmap", "-o", "name")


@pytest.mark.parametrize("seconds", [0.3, 1.0, 3.0])
def test_an_interrupted_start_leaves_no_trace_after_down(shell: Shell, seconds: float) -> None:
    before = traces()
    _killed_up(shell, seconds)
    shell("down")
    assert traces() == before


def test_an_interrupted_start_is_finished_by_the_next(shell: Shell) -> None:
    _killed_up(shell, 2.0)
    shell("up")
    assert shell("status").returncode == 0


def test_a_node_that_died_is_replaced(shell: Shell) -> None:
    shell("up")
    for pid in _members():
        with contextlib.suppress(ProcessLookupError):  # the first to die takes the others along
            os.kill(pid, signal.SIGKILL)
    _eventually(lambda: shell("status", check=False).returncode == 1)
    shell("up")
    assert shell("status").returncode == 0


def _killed_up(shell: Shell, seconds: float) -> None:
    """Start, and kill the starter without warning while it works."""
    command = [sys.executable, "-m", "devcluster", "up"]
    with subprocess.Popen(
        command, cwd=REPO, env=shell.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as starter:
        with pytest.raises(subprocess.TimeoutExpired):
            starter.wait(seconds)
        starter.kill()


def _members() -> set[int]:
    """The processes of the test's cluster, by the cgroups that bear its name."""
    found = set()
    for group in Path("/sys/fs/cgroup").rglob(f"pitcrew-{NAME}"):
        for file in group.rglob("cgroup.procs"):
            found |= {int(line) for line in file.read_text().split()}
    return found - {0}


def _volume_of(shell: Shell, claim: str) -> Path:
    """The directory on this machine that backs a claim."""
    volume = shell.kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
    return Path(shell("kubeconfig").stdout.strip()).parent / "data" / "volumes" / volume


def _eventually(check: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.1)
