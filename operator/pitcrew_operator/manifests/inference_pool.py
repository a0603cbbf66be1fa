"""The InferencePool: what a gateway with an endpoint picker knows of the replicas."""

from typing import Any

from pitcrew_operator.api.routing import InferencePool
from pitcrew_operator.kinds import INFERENCE_POOL
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.child import child
from pitcrew_operator.manifests.serving_pod import PORT
from pitcrew_operator.views import Deployment


def pool_manifest(owner: Deployment, asked: InferencePool) -> dict[str, Any]:
    """The pool of all replicas, named as the resource."""
    picker = asked.endpoint_picker_ref
    spec = {
        "selector": {"matchLabels": names.serving_selector(owner.meta.name)},
        "targetPorts": [{"number": PORT}],
        "endpointPickerRef": {
            "group": "",
            "kind": "Service",
            "name": picker.name,
            "port": {"number": picker.port},
            "failureMode": picker.failure_mode,
        },
    }
    return child(INFERENCE_POOL, owner, spec)
