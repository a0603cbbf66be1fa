"""The Deployment and the Service that serve one engine."""

from decimal import ROUND_CEILING
from typing import Any, Final

from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import DEPLOYMENT
from pitcrew_operator.manifests import adapters, engine_source, names, pod
from pitcrew_operator.quantity import parse_quantity
from pitcrew_operator.views import Deployment

CONTAINER: Final = "runtime"
PORT: Final = 8000
_LIVE: Final = "/health/live"
_READY: Final = "/health/ready"
# Endpoints are withdrawn while the pod sleeps, so no new request meets a draining server.
_ENDPOINT_GRACE: Final = 5
# On top of the drain: time for the server itself to end.
_EXIT_GRACE: Final = 10


def deployment_manifest(
    owner: Deployment, engine: EngineStatus, default_model_name: str, config: Config
) -> dict[str, Any]:
    """The built-in Deployment. Raises ValueError where `kvMemory` is no quantity."""
    spec = owner.spec
    return names.stamped(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _metadata(owner),
            "spec": {
                "replicas": 1 if spec.replicas is None else spec.replicas,
                "minReadySeconds": 1,
                "progressDeadlineSeconds": spec.runtime.startup_seconds + 120,
                "revisionHistoryLimit": 2,
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
                },
                "selector": {"matchLabels": _selector(owner)},
                "template": {
                    "metadata": {
                        "labels": _labels(owner),
                        "annotations": {names.ENGINE_ID_ANNOTATION: engine.id},
                    },
                    "spec": _pod_spec(owner, engine, default_model_name, config),
                },
            },
        }
    )


def service_manifest(owner: Deployment) -> dict[str, Any]:
    """The Service, named as the resource."""
    service = owner.spec.service
    port = {"name": "http", "port": service.port, "targetPort": "http", "protocol": "TCP"}
    return names.stamped(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(owner),
            "spec": {"type": service.type.value, "selector": _selector(owner), "ports": [port]},
        }
    )


def selector_text(owner: Deployment) -> str:
    """The pods' selector in the form that /scale wants."""
    return ",".join(f"{key}={value}" for key, value in _selector(owner).items())


def service_url(owner: Deployment) -> str:
    """Where clients inside the cluster find the Service."""
    port = owner.spec.service.port
    host = f"http://{owner.meta.name}.{owner.meta.namespace}.svc"
    return host if port == 80 else f"{host}:{port}"


def _selector(owner: Deployment) -> dict[str, str]:
    return {names.DEPLOYMENT_LABEL: owner.meta.name}


def _labels(owner: Deployment) -> dict[str, str]:
    return names.labels("runtime", owner.meta.name, _selector(owner))


def _metadata(owner: Deployment) -> dict[str, Any]:
    return {
        "name": owner.meta.name,
        "namespace": owner.meta.namespace,
        "labels": _labels(owner),
        "ownerReferences": [names.owner_reference(DEPLOYMENT, owner.meta)],
    }


def _pod_spec(
    owner: Deployment, engine: EngineStatus, default_model_name: str, config: Config
) -> dict[str, Any]:
    runtime = owner.spec.runtime
    return {
        # A cache on a claim is written by the pods.
        "securityContext": pod.pod_security(fs_group=_cache(owner) is not None),
        **pod.placement(runtime, config),
        "terminationGracePeriodSeconds": _ENDPOINT_GRACE + runtime.drain_seconds + _EXIT_GRACE,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _selector(owner)},
                "matchLabelKeys": ["pod-template-hash"],
            }
        ],
        "initContainers": [_init_container(owner, engine, config)],
        "containers": [_container(owner, engine, default_model_name, config)],
        "volumes": [
            *engine_source.volumes(engine, _cache(owner)),
            *adapters.volumes(owner.spec.adapters),
            pod.scratch("tmp"),
        ],
    }


def _init_container(owner: Deployment, engine: EngineStatus, config: Config) -> dict[str, Any]:
    return engine_source.init_container(engine, _cache(owner), _image(owner, config), config)


def _image(owner: Deployment, config: Config) -> str:
    return owner.spec.runtime.image or config.runtime_image


def _cache(owner: Deployment) -> str | None:
    cache = owner.spec.runtime.engine_cache
    return cache.claim_name if cache else None


def _container(
    owner: Deployment, engine: EngineStatus, default_model_name: str, config: Config
) -> dict[str, Any]:
    runtime = owner.spec.runtime
    return {
        "name": CONTAINER,
        "image": _image(owner, config),
        "imagePullPolicy": config.runtime_pull_policy,
        "command": ["pitcrew-serve"],
        "args": _arguments(owner, engine, default_model_name),
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 (an emptyDir of the pod)
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "securityContext": pod.CONTAINER_SECURITY,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            engine_source.mount(engine, _cache(owner)),
            *adapters.mounts(owner.spec.adapters),
            pod.mount("tmp", "/tmp"),  # noqa: S108 (an emptyDir of the pod)
        ],
        "lifecycle": {"preStop": {"sleep": {"seconds": _ENDPOINT_GRACE}}},
        "startupProbe": _probe(_READY, period=1, failures=runtime.startup_seconds),
        "readinessProbe": _probe(_READY, period=2, failures=2),
        "livenessProbe": _probe(_LIVE, period=10, failures=3),
        **pod.resources(runtime),
    }


def _arguments(owner: Deployment, engine: EngineStatus, default_model_name: str) -> list[str]:
    options = {
        "--engine": engine_source.ENGINE_MOUNT,
        "--host": "0.0.0.0",  # noqa: S104 (a pod's only way to be reached)
        "--port": str(PORT),
        "--served-model-name": owner.spec.served_model_name or default_model_name,
        "--world-size": str(engine.world_size),
        "--drain-seconds": str(owner.spec.runtime.drain_seconds),
    }
    if owner.spec.runtime.kv_memory is not None:
        size = parse_quantity(owner.spec.runtime.kv_memory)
        options["--kv-memory"] = str(int(size.to_integral_value(ROUND_CEILING)))
    words = [word for pair in options.items() for word in pair]
    return [*words, *adapters.arguments(owner.spec.adapters)]


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5 if period > 1 else 1,
        "failureThreshold": failures,
    }
