"""The claim that holds the engines of a namespace."""

from typing import Any

from pitcrew_operator.config import Config
from pitcrew_operator.manifests import names


def store_manifest(namespace: str, config: Config) -> dict[str, Any]:
    """The default store. It has no owner: engines outlive any one resource."""
    spec: dict[str, Any] = {
        "accessModes": list(config.store_access_modes),
        "resources": {"requests": {"storage": config.store_size}},
    }
    if config.store_class is not None:
        spec["storageClassName"] = config.store_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": config.store_claim,
            "namespace": namespace,
            "labels": names.labels("store", config.store_claim, {}),
        },
        "spec": spec,
    }
