"""The operator as a process of its own, ready in a moment: forked from one that has imported it.

Python and kopf take a second to import, which a test that kills the operator fifty times cannot spare.
It is a real process all the same, and `kill` is a real SIGKILL.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pitcrew_operator.app", "tests.controlplane.process"])
SETTINGS = {
    "PITCREW_BUILDER_IMAGE": "pitcrew/builder:1",
    "PITCREW_RUNTIME_IMAGE": "pitcrew/runtime:1",
    "PITCREW_HTTP_PORT": "0",
    "PITCREW_PROBE_SERVICES": "false",  # simulated pods answer nobody
}


@dataclass(frozen=True)
class Launch:
    """What a process is started with."""

    kubeconfig: Path
    log: Path
    settings: Mapping[str, str]


def launch(directory: Path, address: str, **settings: str) -> Launch:
    """For an operator that reaches its API server at this address."""
    document = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": address}}],
        "users": [{"name": "test", "user": {"token": "none"}}],
    }
    kubeconfig = directory / "operator.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    return Launch(kubeconfig, directory / "operator.log", {**SETTINGS, **settings})


class OperatorProcess:
    """One life of the operator."""

    def __init__(self, how: Launch) -> None:
        self._process: ForkServerProcess = _CONTEXT.Process(
            target=_operate, args=(how,), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self.kill()
        self._process.close()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.join()

    def end(self, seconds: float) -> int | None:
        """SIGTERM; its exit code, or None where it has not ended in time."""
        self._process.terminate()
        self._process.join(seconds)
        return self._process.exitcode


def _operate(how: Launch) -> None:
    """In the child."""
    from pitcrew_operator.cli import main

    with how.log.open("ab") as log:
        os.dup2(log.fileno(), 2)
    os.environ["KUBECONFIG"] = str(how.kubeconfig)
    sys.exit(main(["run", "--all-namespaces"], how.settings))
