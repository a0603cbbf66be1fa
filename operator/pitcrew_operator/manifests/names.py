"""Names, labels and digests: equal inputs give equal names, so a repeated write is no new object.

Everything of ours in an object's metadata bears the prefix `pitcrew.dev/`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pitcrew_operator.api.common import API_VERSION, GROUP
from pitcrew_operator.kinds import MANAGED_BY, MANAGER, Kind
from pitcrew_operator.views import Meta

ENGINE_LABEL: Final = f"{GROUP}/engine"
DEPLOYMENT_LABEL: Final = f"{GROUP}/deployment"
WORKER_LABEL: Final = f"{GROUP}/worker-of"
"""In place of the deployment's label on pods that hold ranks and answer no requests."""
REVISION_LABEL: Final = f"{GROUP}/revision"
BUILD_LABEL: Final = f"{GROUP}/build"
STORE_LABEL: Final = f"{GROUP}/store"
GPU_BUILD_LABEL: Final = f"{GROUP}/gpu-build"
APPLIED_ANNOTATION: Final = f"{GROUP}/applied"
ENGINE_ID_ANNOTATION: Final = f"{GROUP}/engine-id"
ENGINE_TAG_ANNOTATION: Final = f"{GROUP}/engine-tag"

_NAME_LIMIT: Final = 63
# A StatefulSet's name and the hash of its own revision make one label; LeaderWorkerSets make
# StatefulSets whose names are theirs and a number.
_REVISION_NAME_LIMIT: Final = 48


def digest(document: Mapping[str, Any], length: int = 8) -> str:
    """Hex digits that stand for a JSON document, whatever the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def job_name(subject: str, purpose: str, suffix: str) -> str:
    """`<subject>-<purpose>-<suffix>` as a DNS label of at most 63 characters."""
    ending = f"-{purpose}-{suffix}"
    plain = re.sub(r"[^a-z0-9]+", "-", subject.lower()).strip("-") or "engine"
    return plain[: _NAME_LIMIT - len(ending)].rstrip("-") + ending


def revision_name(owner: str, hash_: str) -> str:
    """Name of the workload of one revision. The hash stands for the owner's whole name, too."""
    return f"{owner[: _REVISION_NAME_LIMIT - len(hash_) - 1].rstrip('-')}-{hash_}"


def url_host(address: str) -> str:
    """An IP address as URLs write it: one of version 6 stands in brackets."""
    return f"[{address}]" if ":" in address else address


def serving_selector(owner: str) -> dict[str, str]:
    """Labels of every pod of an LLMDeployment that answers requests, whatever its revision."""
    return {DEPLOYMENT_LABEL: owner}


def worker_selector(owner: str) -> dict[str, str]:
    """Labels of its other pods, which hold ranks only."""
    return {WORKER_LABEL: owner}


def store_label(claim: str) -> str:
    """What labels the Jobs of one store; a claim's own name may be too long for a label."""
    return digest({"claim": claim})


def labels(component: str, instance: str, own: Mapping[str, str]) -> dict[str, str]:
    """The recommended labels, plus our own."""
    return {
        "app.kubernetes.io/name": f"pitcrew-{component}",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/component": component,
        MANAGED_BY: MANAGER,
        **own,
    }


def owner_reference(kind: Kind, meta: Meta) -> dict[str, Any]:
    """Makes the garbage collector remove the child with its owner."""
    return {**shared_reference(kind, meta), "controller": True}


def shared_reference(kind: Kind, meta: Meta) -> dict[str, Any]:
    """The same for a child of several owners: it goes with the last of them."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind.kind,
        "name": meta.name,
        "uid": meta.uid,
        "controller": False,
        "blockOwnerDeletion": True,
    }


def stamped(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with a digest of itself, replicas apart, in an annotation.

    The digest shows that a field was withdrawn from the manifest, which a comparison of the
    remaining fields cannot show. Scaling must not change it: that is done by patch.
    """
    metadata, spec = manifest["metadata"], manifest["spec"]
    unscaled = {**manifest, "spec": {k: v for k, v in spec.items() if k != "replicas"}}
    annotations = metadata.get("annotations", {}) | {APPLIED_ANNOTATION: digest(unscaled, 16)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def manifest(kind: Kind, metadata: dict[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """An object with a spec, stamped."""
    return stamped(
        {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}
    )
