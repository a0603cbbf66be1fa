"""Whether an object on the server already is what a manifest asks for.

The server adds defaults, so the manifest must be a part of the object rather than equal to it.
A field withdrawn from the manifest shows in the digest that every manifest carries.
"""

from collections.abc import Mapping
from typing import Any

from pitcrew_operator.kinds import Raw
from pitcrew_operator.manifests.names import APPLIED_ANNOTATION
from pitcrew_operator.quantity import parse_quantity


def is_applied(manifest: Raw, found: Raw | None) -> bool:
    """True where applying the manifest would change nothing."""
    if found is None:
        return False
    stamps = [
        (o["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION) for o in (manifest, found)
    ]
    return stamps[0] == stamps[1] and is_part_of(manifest, found)


def is_part_of(wanted: Any, found: Any) -> bool:  # noqa: ANN401 (any JSON value)
    """True where `found` holds everything of `wanted`; lists must agree element by element."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            is_part_of(value, found.get(key)) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(is_part_of(*pair) for pair in zip(wanted, found, strict=True))
        )
    return bool(wanted == found) or _is_same_quantity(wanted, found)


def _is_same_quantity(wanted: object, found: object) -> bool:
    """The server rewrites quantities: 1000m comes back as 1."""
    if not (isinstance(wanted, int | str) and isinstance(found, int | str)):
        return False
    try:
        return parse_quantity(wanted) == parse_quantity(found)
    except ValueError:
        return False
