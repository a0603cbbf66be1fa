"""Condition UpToDate: whether the engine that serves is the one that would be built today."""

from datetime import datetime
from typing import Final, Literal

from pitcrew_builder.manifest import short_id
from pitcrew_operator import reasons
from pitcrew_operator.api.version import Answer, EngineVersion
from pitcrew_operator.order import Order
from pitcrew_operator.plan.actions import Emit
from pitcrew_operator.plan.book import Book
from pitcrew_operator.plan.conditions import (
    NOTE_LIMIT,
    Fact,
    Health,
    Situation,
    find,
    rfc3339,
)
from pitcrew_operator.views import Engine

UP_TO_DATE: Final = "UpToDate"
_CUDA: Final = ("cuda", "tensorrt", "tensorrt-rtx")
"""Parts of a toolchain that a plan may not outlive."""
_DRIFTS: Final = frozenset(
    {
        reasons.CUDA_DRIFT,
        reasons.BUILDER_CHANGED,
        reasons.REVISION_MOVED,
        reasons.SPEC_CHANGED,
    }
)


def currency(order: Order, book: Book, answer: Answer | None, trouble: Situation | None) -> Fact:
    """The condition. `trouble` is why the wanted version does not serve yet."""
    serving = book.serving
    if serving is None:
        return Fact(UP_TO_DATE, "False", reasons.NO_ENGINE, "no engine is proven yet")
    if answer is None:
        assert trouble is not None, "without an answer there is a reason for that"
        return Fact(UP_TO_DATE, "Unknown", trouble.reason, trouble.message)
    if serving.key == order.key(answer):
        if trouble is not None:
            return Fact(UP_TO_DATE, "Unknown", trouble.reason, trouble.message)
        return Fact(UP_TO_DATE, "True", reasons.UP_TO_DATE, f"engine {serving.tag} is the newest")
    why, sentence = drift(order, serving, answer)
    if trouble is None:
        return Fact(UP_TO_DATE, "False", why, sentence)
    reason = trouble.reason if trouble.health is Health.STALLED else why
    return Fact(UP_TO_DATE, "False", reason, f"{sentence}; {trouble.message}")


def drift(order: Order, serving: EngineVersion, answer: Answer) -> tuple[str, str]:
    """What tells the wanted version from the one that serves: a reason, and a sentence."""
    changed = {
        name: (serving.toolchain.get(name), answer.toolchain.get(name))
        for name in sorted(serving.toolchain.keys() | answer.toolchain.keys())
        if serving.toolchain.get(name) != answer.toolchain.get(name)
    }
    if serving.platform != order.platform and order.request.platform is not None:
        text = f"plans were tuned on {_told(serving.platform)}, and the nodes have"
        return reasons.CUDA_DRIFT, f"{text} {_told(order.platform)}"
    if any(name in _CUDA for name in changed):
        return reasons.CUDA_DRIFT, f"the builder has {_changes(changed)}"
    if serving.spec_hash != order.spec_hash:
        return reasons.SPEC_CHANGED, "the spec asks for another engine"
    if serving.commit != answer.commit:
        text = f"the checkpoint moved from {short_id(serving.commit)} to {short_id(answer.commit)}"
        return reasons.REVISION_MOVED, text
    version = f"version {answer.builder_version} in place of {serving.builder_version}"
    return reasons.BUILDER_CHANGED, f"the builder has {_changes(changed) or version}"


def _changes(changed: dict[str, tuple[str | None, str | None]]) -> str:
    return ", ".join(f"{name} {new or 'none'} (was {old})" for name, (old, new) in changed.items())


def _told(platform: dict[str, str]) -> str:
    if not platform:
        return "machines that were not named"
    return f"{platform['gpuProduct']}, driver {platform['driver']}, CUDA {platform['cuda']}"


def turned(engine: Engine, fact: Fact, now: datetime) -> list[Emit]:
    """The event that a turn of the condition deserves: fallen behind, or caught up again."""
    last = find(engine.status.conditions, fact.type)
    if last is None or (last.status, last.reason) == (fact.status, fact.reason):
        return []
    if fact.status == "Unknown" or reasons.NO_ENGINE in (last.reason, fact.reason):
        return []
    if fact.status == "True" and last.status == "Unknown":
        return []
    calm = fact.status == "True" or fact.reason in _DRIFTS
    level: Literal["Normal", "Warning"] = "Normal" if calm else "Warning"
    note = fact.message[:NOTE_LIMIT]
    return [Emit(engine.kind, engine.meta, level, fact.reason, note, rfc3339(now))]
