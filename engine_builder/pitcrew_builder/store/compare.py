"""Why two engines are not one: the fields of their identities that differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pitcrew_builder.manifest import Identity


@dataclass(frozen=True, slots=True)
class Difference:
    """One field, named by its way through the identity; None where an engine has it not."""

    field: str
    left: str | None
    right: str | None


def differences(left: Identity, right: Identity) -> tuple[Difference, ...]:
    """Every field in which the two differ, in their order; none where they are one engine."""
    a, b = dict(_leaves(_dump(left))), dict(_leaves(_dump(right)))
    names = list(dict.fromkeys([*a, *b]))
    return tuple(
        Difference(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)
    )


def _dump(identity: Identity) -> dict[str, Any]:
    return identity.model_dump(mode="json", by_alias=True)


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        elif value is not None:
            yield name, str(value)
