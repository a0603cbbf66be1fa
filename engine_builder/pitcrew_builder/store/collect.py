"""Which engines nobody needs: a pure judgement, so that it can be shown before it is carried out."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.store.lookup import fits
from pitcrew_builder.store.protocol import Kept

_WHOLE_ID = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept."""

    keep: tuple[str, ...] = ()
    """Ids (or beginnings of them), tags and paths that somebody refers to."""

    keep_last: int = 2
    """The newest engines of each model and target."""

    older_than: timedelta = timedelta(days=7)
    """Younger engines stay: somebody may be about to use them."""

    only: frozenset[str] = frozenset()
    """Whole ids. Given: these go, whatever their age and number, and nothing else does."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One engine, and what becomes of it."""

    kept: Kept
    remove: bool
    why: str


def judge(engines: Iterable[Kept], policy: Policy, now: datetime) -> tuple[Verdict, ...]:
    """A verdict for each engine, in their order. Raises `InvalidSpec` for a reference to nothing."""
    everything = tuple(engines)
    _check_references(everything, policy)
    if policy.only:
        return tuple(_verdict_by_name(kept, policy) for kept in everything)
    newest = _newest(everything, policy.keep_last)
    return tuple(_verdict(kept, kept.path in newest, policy, now) for kept in everything)


def _verdict(kept: Kept, is_newest: bool, policy: Policy, now: datetime) -> Verdict:
    age = now - kept.published
    if any(fits(kept, name) for name in policy.keep):
        return Verdict(kept, False, "referred to")
    if is_newest:
        return Verdict(kept, False, f"among the newest {policy.keep_last} of its model and target")
    if age < policy.older_than:
        return Verdict(kept, False, f"{_told(age)} old")
    if kept.manifest is None:
        return Verdict(kept, True, f"damaged, {_told(age)} old")
    return Verdict(kept, True, f"{_told(age)} old, not among the newest {policy.keep_last}")


def _verdict_by_name(kept: Kept, policy: Policy) -> Verdict:
    if kept.manifest is None or kept.manifest.engine_id not in policy.only:
        return Verdict(kept, False, "not named")
    if any(fits(kept, name) for name in policy.keep):
        return Verdict(kept, False, "referred to")
    return Verdict(kept, True, "named")


def _newest(engines: Sequence[Kept], count: int) -> set[str]:
    """Paths of the newest engines of each model and target; a damaged engine is none of them."""
    groups: dict[tuple[str, str], list[Kept]] = defaultdict(list)
    for kept in engines:
        if kept.manifest is not None:
            identity = kept.manifest.identity
            groups[identity.model, identity.target_tag].append(kept)
    newest: set[str] = set()
    for group in groups.values():
        group.sort(key=lambda kept: (kept.published, kept.path), reverse=True)
        newest.update(kept.path for kept in group[:count])
    return newest


def _check_references(engines: Sequence[Kept], policy: Policy) -> None:
    """A whole id may belong to another store; anything shorter that fits nothing is a slip."""
    for name in policy.keep:
        if len(name) != _WHOLE_ID and not any(fits(kept, name) for kept in engines):
            raise InvalidSpec(
                f"--keep-id {name} fits no engine of this store, so nothing is removed; correct it, "
                f"or give the whole id of 64 digits"
            )


def _told(age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    return f"{hours} h" if hours < 48 else f"{hours // 24} days"
