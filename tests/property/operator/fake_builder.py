"""Answers as the builder's image would give them, read from the very arguments of its Jobs.

What it makes follows from the request, from where the branch stands and from the image's toolchain,
as a real engine's identity does.
"""

import hashlib
import json
from typing import Any

from tests.property.operator.simulation import Object
from tests.unit.operator.factories import resolved, succeeded


class FakeBuilder:
    """One state of the world outside: what hub and images hold."""

    def __init__(self) -> None:
        self.commit = "0" * 40
        """Where the branch `main` stands."""
        self.toolchains: dict[str, dict[str, str]] = {}
        """By image; every other image has the same."""
        self.misfit: str | None = None
        """Why the nodes' GPUs would not hold the engine."""

    def resolve(self, job: Object) -> str:
        """What `pitcrew-build resolve` leaves."""
        spec, toolchain = _spec(job), self._toolchain(job)
        identity = self._identity(spec, toolchain)
        # A volume tells no digests before it is read.
        exact = spec["source"]["kind"] == "huggingFace"
        return resolved(
            key=identity,
            engineId=identity if exact else None,
            tag=f"tiny-{identity[:7]}" if exact else None,
            commit=self._commit(spec),
            toolchain=toolchain,
            misfit=self.misfit,
        )

    def build(self, job: Object) -> tuple[str, str]:
        """What `pitcrew-build build` leaves, and the id of the engine in the store."""
        spec, toolchain = _spec(job), self._toolchain(job)
        identity = self._identity(spec, toolchain)
        words = succeeded(
            engineId=identity,
            tag=f"tiny-{identity[:7]}",
            path=f"tiny/{identity[:12]}",
            commit=self._commit(spec),
        )
        return words, identity

    def _toolchain(self, job: Object) -> dict[str, str]:
        image = job["spec"]["template"]["spec"]["containers"][0]["image"]
        return self.toolchains.get(image, {"onnxruntime": "1.32.0"})

    def _commit(self, spec: dict[str, Any]) -> str:
        revision: str = spec["source"].get("revision", "main")
        return self.commit if revision == "main" else revision

    def _identity(self, spec: dict[str, Any], toolchain: dict[str, str]) -> str:
        source = {**spec["source"], "revision": self._commit(spec)}
        document = json.dumps([{**spec, "source": source}, toolchain], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()


def _spec(job: Object) -> dict[str, Any]:
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    spec: dict[str, Any] = json.loads(arguments[arguments.index("--spec-json") + 1])
    return spec
