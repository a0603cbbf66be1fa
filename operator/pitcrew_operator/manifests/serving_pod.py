"""The pods that serve one engine: what every workload of a revision has as its template."""

from decimal import ROUND_CEILING
from typing import Any, Final

from pitcrew_operator.api.common import dump
from pitcrew_operator.api.placement import TopologySpread
from pitcrew_operator.api.pod_template import RUNTIME_CONTAINER
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.manifests import adapters, engine_source, gpu, names, pod, ranks
from pitcrew_operator.manifests.ranks import Role
from pitcrew_operator.quantity import parse_quantity
from pitcrew_operator.views import Deployment

PORT: Final = 8000
_HOST: Final = "kubernetes.io/hostname"
_LIVE: Final = "/health/live"
_READY: Final = "/health/ready"
# Until every node has heard that the pod is leaving, it still gets requests, and answers them.
_WITHDRAW_SECONDS: Final = 5
# On top of the drain: time for the server itself to end.
_EXIT_GRACE: Final = 10


def pod_spec(
    owner: Deployment,
    engine: EngineStatus,
    default_model_name: str,
    config: Config,
    role: Role = Role.ONLY,
) -> dict[str, Any]:
    """The pod's spec. Raises ValueError where `kvMemory` is no quantity."""
    runtime = owner.spec.runtime
    return {
        # A cache on a claim is written by the pods.
        "securityContext": pod.pod_security(fs_group=_cache(owner) is not None),
        **_placement(owner, engine, config),
        "terminationGracePeriodSeconds": _WITHDRAW_SECONDS + runtime.drain_seconds + _EXIT_GRACE,
        **({} if role is Role.WORKER else _spread(owner)),
        "initContainers": [_init_container(owner, engine, config)],
        "containers": [_container(owner, engine, default_model_name, config, role)],
        "volumes": [
            *engine_source.volumes(engine, _cache(owner)),
            *adapters.volumes(owner.spec.adapters),
            *ranks.volumes(owner, role),
            *gpu.volumes(engine),
            pod.scratch("tmp"),
        ],
    }


def _placement(owner: Deployment, engine: EngineStatus, config: Config) -> dict[str, Any]:
    found = pod.placement(owner.spec.runtime, config)
    needs = {
        "nodeSelector": gpu.node_selector(engine, found.get("nodeSelector", {})),
        "tolerations": gpu.tolerations(engine, found.get("tolerations", [])),
    }
    return found | {field: value for field, value in needs.items() if value}


def _spread(owner: Deployment) -> dict[str, Any]:
    """Over hosts unless the user says otherwise; each revision is spread for itself.

    Replicas are spread, not the pods of one: its workers go where there is room.
    """
    chosen = owner.spec.runtime.topology_spread_constraints
    asked = (TopologySpread(topology_key=_HOST),) if chosen is None else chosen
    ours = {
        "labelSelector": {"matchLabels": names.serving_selector(owner.meta.name)},
        "matchLabelKeys": [names.REVISION_LABEL],
    }
    constraints = [dump(each) | ours for each in asked]
    return {"topologySpreadConstraints": constraints} if constraints else {}


def _init_container(owner: Deployment, engine: EngineStatus, config: Config) -> dict[str, Any]:
    return engine_source.init_container(engine, _cache(owner), _image(owner, config), config)


def _image(owner: Deployment, config: Config) -> str:
    return owner.spec.runtime.image or config.runtime_image


def _cache(owner: Deployment) -> str | None:
    cache = owner.spec.runtime.engine_cache
    return cache.claim_name if cache else None


def _container(
    owner: Deployment, engine: EngineStatus, default_model_name: str, config: Config, role: Role
) -> dict[str, Any]:
    return {
        "name": RUNTIME_CONTAINER,
        "image": _image(owner, config),
        "imagePullPolicy": config.runtime_pull_policy,
        "command": ["pitcrew-serve"],
        "args": [*_arguments(owner, engine, default_model_name), *ranks.arguments(owner, engine)],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 (an emptyDir of the pod)
        "ports": _ports(role),
        "securityContext": pod.CONTAINER_SECURITY,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            engine_source.mount(engine, _cache(owner)),
            *adapters.mounts(owner.spec.adapters),
            *ranks.mounts(owner, role),
            *gpu.mounts(engine),
            pod.mount("tmp", "/tmp"),  # noqa: S108 (an emptyDir of the pod)
        ],
        **_probes(owner, role),
        **_resources(owner, engine),
    }


def _resources(owner: Deployment, engine: EngineStatus) -> dict[str, Any]:
    found = gpu.resources(engine, owner.spec.runtime, ranks.held(owner, engine))
    return {"resources": found} if found else {}


def _ports(role: Role) -> list[dict[str, Any]]:
    http = {"name": "http", "containerPort": PORT, "protocol": "TCP"}
    return [*([] if role is Role.WORKER else [http]), *ranks.ports(role)]


def _probes(owner: Deployment, role: Role) -> dict[str, Any]:
    """The leader is ready when all ranks are, and a worker opens its port with the leader; one that
    fails later ends, and its group with it.
    """
    if role is Role.WORKER:
        # It may be there long before its leader, which has its own time from then on.
        seconds = 2 * owner.spec.runtime.startup_seconds
        door = {"tcpSocket": {"port": PORT}, "timeoutSeconds": 1}
        return {"startupProbe": {**door, "periodSeconds": 1, "failureThreshold": seconds}}
    return {
        "startupProbe": _probe(_READY, period=1, failures=owner.spec.runtime.startup_seconds),
        "readinessProbe": _probe(_READY, period=2, failures=2),
        "livenessProbe": _probe(_LIVE, period=10, failures=3),
    }


def _arguments(owner: Deployment, engine: EngineStatus, default_model_name: str) -> list[str]:
    options = {
        "--engine": engine_source.ENGINE_MOUNT,
        "--host": "0.0.0.0",  # noqa: S104 (a pod's only way to be reached)
        "--port": str(PORT),
        "--served-model-name": owner.spec.served_model_name or default_model_name,
        "--world-size": str(engine.world_size),
        "--withdraw-seconds": str(_WITHDRAW_SECONDS),
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
