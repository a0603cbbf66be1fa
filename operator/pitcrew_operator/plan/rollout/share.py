"""How many replicas a step of a canary gives to the new revision.

Requests reach every replica alike through one Service, so a part of the replicas is the same part of
the requests.
"""

from dataclasses import dataclass
from datetime import timedelta

from pitcrew_operator.plan.rollout.step import Budget


@dataclass(frozen=True)
class Share:
    """One step: a part of the replicas in percent, or a number of them."""

    weight: int | None = None
    replicas: int | None = None
    hold: timedelta = timedelta()
    """How long the step lasts at least, once its replicas serve."""


def split(share: Share, budget: Budget) -> tuple[int, int]:
    """Replicas of the new revision and of the stable one.

    Both have at least one, so that one can be held against the other. A single replica is joined by
    a second where there is room for it; else the new one takes its place.
    """
    total = budget.replicas
    if total == 0:
        return 0, 0
    asked = share.replicas if share.weight is None else -(-total * share.weight // 100)
    canary = max(1, min(asked or 1, max(1, total - 1)))
    rest = total - canary
    return canary, rest or min(1, budget.surge)
