"""What a plan for an LLMDeployment looks at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pitcrew_operator.kinds import Raw
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.plan.autoscaling.looks import Look
from pitcrew_operator.plan.beside import Beside
from pitcrew_operator.plan.conditions import Situation
from pitcrew_operator.plan.questions import Answer
from pitcrew_operator.views import Pod


@dataclass(frozen=True)
class DeploymentSeen:
    """What the cluster holds for one LLMDeployment."""

    target: Revision | Situation
    """What the spec asks for, by `target.target_of`."""
    workloads: tuple[Raw, ...] = ()
    """Those of its revisions, and a namesake of the target's, ours or not."""
    beside: Beside = field(default_factory=Beside)
    pods: tuple[Pod, ...] = ()
    has_groups: bool = False
    """Whether the cluster knows LeaderWorkerSets."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """What pods have answered, by the subject of the question."""
    gpu_percent: float | None = None
    """How busy the GPUs of the ready pods are; None where nobody tells."""
    looks: Sequence[Look] = ()
    """What was measured of an autoscaled deployment, the newest first."""
    looks_every: float = 15.0
    """Seconds from one look to the next."""
    watched: timedelta = timedelta.max
    """For how long this operator has looked after it."""
    proves_service: bool = True
    """Whether an answer through the Service is asked for before Ready."""
