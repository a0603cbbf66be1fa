"""What a user lays over a template, merged by the rules that `kubectl patch` taught people.

Objects are merged field by field. Lists whose entries have a key are merged by it; every other list
replaces the one below. Null removes. Whose field it is, is not known here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
}


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A new document: `above` laid over `below`; neither is changed."""
    fields = {
        key: _merged(key, below.get(key), above[key]) if key in above else value
        for key, value in {**below, **above}.items()
    }
    return {key: value for key, value in fields.items() if value is not None}


def _merged(key: str, below: object, above: object) -> object:
    if isinstance(above, Mapping):
        return overlaid(below if isinstance(below, Mapping) else {}, above)
    if isinstance(above, list) and key in _KEYS:
        return _merged_list(_KEYS[key], below if isinstance(below, list) else [], above)
    return above


def _merged_list(key: str, below: Sequence[Any], above: Sequence[Any]) -> list[Any]:
    over = {entry.get(key): entry for entry in above}
    kept = [overlaid(entry, over.pop(entry.get(key), {})) for entry in below]
    return [*kept, *(overlaid({}, entry) for entry in over.values())]
