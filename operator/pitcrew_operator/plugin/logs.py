"""`kubectl pitcrew logs`: the pods that matter for a resource, in one stream."""

from collections.abc import Sequence

from pitcrew_operator.kinds import ENGINE, Raw
from pitcrew_operator.manifests.builder_job import BUILD
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL
from pitcrew_operator.plugin.kubectl import PluginError
from pitcrew_operator.plugin.subject import Subject
from pitcrew_operator.views import job_of

_PODS = "200"
"""Streams at a time; kubectl's own limit is 5."""


def arguments(subject: Subject, jobs: Sequence[Raw], *, follow: bool, tail: int) -> list[str]:
    """The words of `kubectl logs`. Raises PluginError where nothing has a log."""
    shared = [
        f"--tail={tail}",
        "--all-containers",
        "--prefix",
        "--ignore-errors",
        *(["--follow"] if follow else []),
    ]
    if subject.kind is not ENGINE:
        label = f"{DEPLOYMENT_LABEL}={subject.name}"
        return ["logs", "--selector", label, f"--max-log-requests={_PODS}", *shared]
    return ["logs", f"job/{_job(subject, jobs)}", *shared]


def _job(subject: Subject, jobs: Sequence[Raw]) -> str:
    """The newest build, else the newest look: an engine that was never built has no other."""
    found = sorted(map(job_of, jobs), key=lambda job: (job.component == BUILD, job.created))
    if not found:
        raise PluginError(
            f"{subject} has no Job: finished ones are removed after a while; "
            f"`kubectl pitcrew explain {subject}` tells what is known"
        )
    return found[-1].meta.name
