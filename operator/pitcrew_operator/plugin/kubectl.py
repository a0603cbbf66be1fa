"""The user's kubectl: the only way from here to a cluster."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pitcrew_operator.kinds import Kind, Raw


class PluginError(Exception):
    """The message is for the user: what is wrong and what to do."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the options that say which cluster and namespace are meant."""

    options: tuple[str, ...] = ()
    """Such as --context and --kubeconfig."""
    namespace: tuple[str, ...] = ()
    """Such as --namespace or --all-namespaces; empty: that of the current context."""

    def run(self, *words: str, stdin: str | None = None) -> str:
        """What a command prints. Raises PluginError with kubectl's own words where it fails."""
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PluginError(done.stderr.strip() or f"kubectl ended with {done.returncode}")
        return done.stdout

    def json(self, *words: str, stdin: str | None = None) -> dict[str, Any]:
        """What a command answers, as JSON."""
        document: dict[str, Any] = json.loads(self.run(*words, "-o", "json", stdin=stdin))
        return document

    def list(self, kind: Kind, selector: str | None = None) -> list[Raw]:
        """Objects of a kind, each with its kind and version."""
        chosen = ("--selector", selector) if selector else ()
        found = self.json("get", _resource(kind), *chosen)
        return [
            {"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in found["items"]
        ]

    def find(self, kind: Kind, name: str) -> Raw | None:
        """One object, or None where there is none."""
        words = ("get", _resource(kind), name, "--ignore-not-found", "-o", "json")
        text = self.run(*words)
        document: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return document

    def watch(self, *words: str) -> int:
        """Let a command write to the terminal; its exit code."""
        return subprocess.run(self.command(*words), check=False).returncode

    def command(self, *words: str) -> Sequence[str]:
        """The command line. Raises PluginError where there is no kubectl."""
        program = shutil.which("kubectl")
        if program is None:
            raise PluginError("there is no kubectl on PATH; install it, or add its directory")
        verb, *rest = words
        return [program, *self.options, verb, *self.namespace, *rest]


def _resource(kind: Kind) -> str:
    return f"{kind.plural}.{kind.version}.{kind.group}" if kind.group else kind.plural
