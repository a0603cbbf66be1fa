"""An object of an LLMDeployment beside its workloads: labelled, owned and stamped."""

from collections.abc import Mapping
from typing import Any

from pitcrew_operator.kinds import DEPLOYMENT, Kind
from pitcrew_operator.manifests import names
from pitcrew_operator.views import Deployment


def child(
    kind: Kind,
    owner: Deployment,
    spec: dict[str, Any],
    name: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The manifest; it bears the owner's name unless another is given."""
    metadata: dict[str, Any] = {
        "name": name or owner.meta.name,
        "namespace": owner.meta.namespace,
        "labels": names.labels("runtime", owner.meta.name, names.serving_selector(owner.meta.name)),
        "ownerReferences": [names.owner_reference(DEPLOYMENT, owner.meta)],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return names.manifest(kind, metadata, spec)
