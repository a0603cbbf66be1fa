"""The line of builds: all queued Jobs of the operator, the one that waits longest first.

The line is nowhere but in the Jobs themselves: one that waits is suspended. A Job may start where
fewer builds run or stand before it than may run at a time, so no two passes can let in one too many.
"""

from pitcrew_operator.kinds import JOB, Raw
from pitcrew_operator.manifests.builder_job import BUILD
from pitcrew_operator.store import Store
from pitcrew_operator.views import COMPONENT_LABEL, Job, job_of


def first_in_line(store: Store, limit: int) -> list[Raw]:
    """The queued builds that may start next; none without a limit."""
    if not limit:
        return []
    running, waiting = _builds(store)
    waiting.sort(key=lambda pair: _age(pair[0]))
    return [raw for _, raw in waiting[: max(0, limit - running)]]


def ahead_of(store: Store, job: Job) -> int:
    """Builds that run or that have waited longer."""
    running, waiting = _builds(store)
    return running + sum(_age(other) < _age(job) for other, _ in waiting)


def _builds(store: Store) -> tuple[int, list[tuple[Job, Raw]]]:
    """How many builds run, and those that wait."""
    running, waiting = 0, []
    for raw in store.all(JOB):
        if (raw["metadata"].get("labels") or {}).get(COMPONENT_LABEL) != BUILD:
            continue
        job = job_of(raw)
        if job.suspended and not job.meta.deleting:
            waiting.append((job, raw))
        elif not job.ended:
            running += 1
    return running, waiting


def _age(job: Job) -> tuple[str, str, str]:
    return job.created, job.meta.namespace, job.meta.name
