"""What a build has to find before a pod of it may start: a pod that waits for a volume tells nobody."""

from collections.abc import Iterator

from pitcrew_operator import reasons
from pitcrew_operator.order import Order
from pitcrew_operator.plan.conditions import Situation, reconciling


def missing(order: Order) -> Situation | None:
    """The first input that is not there; None where all are."""
    return next(_missing(order), None)


def _missing(order: Order) -> Iterator[Situation]:
    namespace, claim = order.engine.meta.namespace, order.engine.spec.model.claim_name
    if claim is not None and order.source is None:
        yield reconciling(
            reasons.SOURCE_VOLUME_NOT_FOUND,
            f"PersistentVolumeClaim {claim} of spec.model.volume.claimName does not exist in "
            f"namespace {namespace}; create it, and the build starts",
        )
    for key in order.engine.spec.config_maps:
        if order.prompts.get(key) is None:
            yield reconciling(
                reasons.PROMPTS_NOT_FOUND,
                f"ConfigMap {key.name} of the prompts does not exist in namespace {namespace}, or "
                f"has no key {key.key}; create it, or correct configMap, and the build starts",
            )
