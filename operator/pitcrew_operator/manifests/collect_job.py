"""The Job that removes retired engines from the store, by the store's own garbage collection."""

from collections.abc import Sequence
from typing import Any, Final

from pitcrew_operator.config import Config
from pitcrew_operator.manifests import builder_job, names
from pitcrew_operator.manifests import store as stores
from pitcrew_operator.manifests.builder_pod import Task
from pitcrew_operator.manifests.store import Store
from pitcrew_operator.views import Engine

_RESOURCES: Final = {
    "requests": {"cpu": "50m", "memory": "128Mi"},
    "limits": {"memory": "512Mi"},
}


def collect_name(engine: Engine, ids: Sequence[str]) -> str:
    """Name of the Job for these engines."""
    suffix = names.digest({"owner": engine.meta.uid, "ids": sorted(ids)})
    return names.job_name(engine.meta.name, "collect", suffix)


def collect_job(engine: Engine, store: Store, ids: Sequence[str], config: Config) -> dict[str, Any]:
    """The Job. An engine that somebody reads stays, and the Job fails, to be tried again later."""
    task = Task(
        engine=engine,
        config=config,
        command="pitcrew-engine",
        arguments=_arguments(store, ids),
        resources=_RESOURCES,
        store=store,
        is_light=True,
    )
    return builder_job.job(
        builder_job.Frame(
            name=collect_name(engine, ids),
            component=builder_job.COLLECT,
            task=task,
            owner=builder_job.own_reference(task),
            labels={names.STORE_LABEL: names.store_label(store.name)},
        )
    )


def _arguments(store: Store, ids: Sequence[str]) -> list[str]:
    chosen = [word for id_ in sorted(ids) for word in ("--only-id", id_)]
    return ["gc", *stores.arguments(store), *chosen, "--delete"]
