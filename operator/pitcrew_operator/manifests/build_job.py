"""The Job that builds one engine, for every LLMEngine of its namespace that asks for that engine."""

from typing import Any

from pitcrew_builder.spec import Target
from pitcrew_operator.api.common import dump
from pitcrew_operator.api.version import Answer
from pitcrew_operator.kinds import ENGINE
from pitcrew_operator.manifests import builder_job, names
from pitcrew_operator.manifests import store as stores
from pitcrew_operator.manifests.builder_pod import Task
from pitcrew_operator.manifests.gpu import GPU
from pitcrew_operator.order import Order


def build_job(order: Order, answer: Answer, *, queued: bool) -> dict[str, Any]:
    """The Job; suspended where it has to wait for its turn."""
    labels = {
        names.BUILD_LABEL: order.key(answer),
        names.STORE_LABEL: names.store_label(order.store.name),
    }
    task = _task(order, answer)
    if GPU in task.resources.get("limits", {}):
        labels[names.GPU_BUILD_LABEL] = "true"
    return builder_job.job(
        builder_job.Frame(
            name=order.job_name(answer),
            component=builder_job.BUILD,
            task=task,
            owner=names.shared_reference(ENGINE, order.engine.meta),
            labels=labels,
            suspended=queued,
        )
    )


def _task(order: Order, answer: Answer) -> Task:
    return Task(
        engine=order.engine,
        config=order.config,
        arguments=_arguments(order, answer),
        resources=_resources(order),
        store=order.store,
        node_selector=_node_selector(order),
    )


def _resources(order: Order) -> dict[str, Any]:
    """As the spec says; one GPU where the compiler measures on one and the spec forgets it."""
    chosen = dump(order.engine.spec.build.resources)
    if order.engine.spec.target is not Target.TENSORRT:
        return chosen
    return {**chosen, "limits": {GPU: 1, **chosen.get("limits", {})}}


def _node_selector(order: Order) -> dict[str, str]:
    """Where kernels are measured: on the machines that the request names."""
    if order.request.platform is None or order.pool is None:
        return {}
    return dict(order.pool.selector)


def _arguments(order: Order, answer: Answer) -> list[str]:
    options = {
        "--spec-json": order.pinned(answer).model_dump_json(by_alias=True),
        "--cache": "/cache",
        "--outcome": "/dev/termination-log",
        "--progress": "json",
    }
    words = (word for pair in options.items() for word in pair)
    return ["build", *words, *stores.arguments(order.store)]
