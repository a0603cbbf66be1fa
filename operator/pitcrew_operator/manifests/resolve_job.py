"""The Job that asks the builder what it would make, and whether the GPUs of the nodes hold it.

A Job rather than a request of the operator's own: it needs the repository's token, the volume and
the builder's versions, and the operator may read no Secret. It takes no GPU and no engine store.
Once its answer is recorded it is of no more use, and the cluster itself removes it after a while. Where
that comes before anybody has read it, it is asked again.
"""

from typing import Any, Final

from pitcrew_operator.manifests import builder_job
from pitcrew_operator.manifests.builder_pod import Task
from pitcrew_operator.order import Order

_KEPT_SECONDS: Final = 300
_RESOURCES: Final = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "1Gi"},
}


def resolve_job(order: Order) -> dict[str, Any]:
    """The Job."""
    task = Task(
        engine=order.engine,
        config=order.config,
        arguments=_arguments(order),
        resources=_RESOURCES,
        is_light=True,
    )
    return builder_job.job(
        builder_job.Frame(
            name=order.look_name,
            component=builder_job.RESOLVE,
            task=task,
            owner=builder_job.own_reference(task),
            kept_seconds=_KEPT_SECONDS,
        )
    )


def _arguments(order: Order) -> list[str]:
    options = {
        "--spec-json": order.request.model_dump_json(by_alias=True),
        "--cache": "/cache",
        "--outcome": "/dev/termination-log",
    }
    if order.pool is not None:
        options |= {"--gpu": order.pool.product, "--gpu-memory": str(order.pool.memory)}
    return ["resolve", *(word for pair in options.items() for word in pair)]
