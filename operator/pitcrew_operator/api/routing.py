"""How clients come to the replicas: the Service, and what stands beside it on request."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import Annotations, ObjectName


class ServiceType(StrEnum):
    """How the Service is reachable."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class SessionAffinity(Model):
    """Requests from one address go to one replica, so that it finds its prefixes in the cache."""

    timeout_seconds: int = Field(
        default=10800, ge=1, le=86400, description="How long an address keeps its replica."
    )


class ServiceSettings(Model):
    """The Service in front of the replicas. It bears the LLMDeployment's name."""

    port: int = Field(default=80, ge=1, le=65535, description="Port of the Service.")
    type: ServiceType = Field(
        default=ServiceType.CLUSTER_IP, description="ClusterIP, NodePort or LoadBalancer."
    )
    annotations: Annotations = Field(
        default={}, description="Annotations of the Service, such as a load balancer's settings."
    )
    session_affinity: SessionAffinity | None = Field(
        default=None, description="Sticky routing by client address. Default: none."
    )
    headless: bool = Field(
        default=False,
        description="A second Service, NAME-headless, whose DNS name gives the addresses of all "
        "ready replicas: for clients and proxies that balance by themselves.",
    )


class EndpointPicker(Model):
    """The Service of an endpoint picker, which chooses a replica for each request."""

    name: ObjectName = Field(description="Name of the Service, in this namespace.")
    port: int = Field(default=9002, ge=1, le=65535, description="Its port for ext-proc.")
    failure_mode: Literal["FailOpen", "FailClose"] = Field(
        default="FailClose",
        description="FailOpen: without the picker, requests go to any replica. FailClose: to none.",
    )


class InferencePool(Model):
    """An InferencePool (inference.networking.k8s.io/v1) of the replicas, by the same name."""

    endpoint_picker_ref: EndpointPicker = Field(description="The endpoint picker.")
