"""The Services in front of the pods of every revision."""

from typing import Any

from pitcrew_operator.kinds import SERVICE, Raw
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.child import child
from pitcrew_operator.views import Deployment


def service_manifest(owner: Deployment) -> dict[str, Any]:
    """The Service, named as the resource."""
    settings = owner.spec.service
    spec: dict[str, Any] = {"type": settings.type.value, **_ports(owner)}
    if settings.session_affinity is not None:
        seconds = settings.session_affinity.timeout_seconds
        spec["sessionAffinity"] = "ClientIP"
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": seconds}}
    return child(SERVICE, owner, spec, annotations=settings.annotations)


def headless_manifest(owner: Deployment) -> dict[str, Any]:
    """A second Service, whose name resolves to every ready replica."""
    return child(SERVICE, owner, {"clusterIP": "None", **_ports(owner)}, headless_name(owner))


def headless_name(owner: Deployment) -> str:
    """Name of the second Service."""
    return f"{owner.meta.name}-headless"


def _ports(owner: Deployment) -> dict[str, Any]:
    number = owner.spec.service.port
    port = {"name": "http", "port": number, "targetPort": "http", "protocol": "TCP"}
    return {"selector": names.serving_selector(owner.meta.name), "ports": [port]}


def selector_text(owner: Deployment) -> str:
    """The selector of the pods of every revision, in the form that /scale wants."""
    return ",".join(f"{k}={v}" for k, v in names.serving_selector(owner.meta.name).items())


def service_url(owner: Deployment) -> str:
    """Where clients inside the cluster find the Service."""
    return _url(owner, f"{owner.meta.name}.{owner.meta.namespace}.svc")


def cluster_url(owner: Deployment, service: Raw | None) -> str | None:
    """The same by the address that the Service was given, without asking DNS; None before that."""
    address = ((service or {}).get("spec") or {}).get("clusterIP")
    if not address or address == "None":
        return None
    return _url(owner, names.url_host(address))


def _url(owner: Deployment, host: str) -> str:
    port = owner.spec.service.port
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"
