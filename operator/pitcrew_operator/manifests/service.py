"""The Service in front of the pods of every revision."""

from typing import Any

from pitcrew_operator.kinds import DEPLOYMENT
from pitcrew_operator.manifests import names
from pitcrew_operator.views import Deployment


def service_manifest(owner: Deployment) -> dict[str, Any]:
    """The Service, named as the resource."""
    service, name = owner.spec.service, owner.meta.name
    port = {"name": "http", "port": service.port, "targetPort": "http", "protocol": "TCP"}
    selector = names.serving_selector(name)
    return names.stamped(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": name,
                "namespace": owner.meta.namespace,
                "labels": names.labels("runtime", name, selector),
                "ownerReferences": [names.owner_reference(DEPLOYMENT, owner.meta)],
            },
            "spec": {"type": service.type.value, "selector": selector, "ports": [port]},
        }
    )


def selector_text(owner: Deployment) -> str:
    """The selector of the pods of every revision, in the form that /scale wants."""
    return ",".join(f"{k}={v}" for k, v in names.serving_selector(owner.meta.name).items())


def service_url(owner: Deployment) -> str:
    """Where clients inside the cluster find the Service."""
    port = owner.spec.service.port
    host = f"http://{owner.meta.name}.{owner.meta.namespace}.svc"
    return host if port == 80 else f"{host}:{port}"
