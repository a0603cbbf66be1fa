"""The health rules of our kinds in an `argocd-cm`: which stand there, whose they are, and what is missing.

Argo CD takes a custom resource for healthy as soon as it exists, unless a rule in this ConfigMap says
otherwise. The ConfigMap is Argo CD's: we own two of its keys by server-side apply, and a rule that somebody
else gave goes before ours. Pure: nothing is read or written here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import yaml

from pitcrew_operator.kinds import CONFIG_MAP, MANAGER, OWNERS, Kind, Raw, at

CONFIG: Final = "argocd-cm"
"""The name that Argo CD insists on."""
RULE: Final = files(__package__).joinpath("health.lua").read_text()
"""Lua. One for both kinds: their conditions mean the same."""
_ONE_KEY: Final = "resource.customizations"
"""The older form: one YAML document for all kinds, which a key of its own goes before."""


def key_of(kind: Kind) -> str:
    """Where Argo CD looks for the rule of a kind."""
    return f"{_ONE_KEY}.health.{kind.group}_{kind.kind}"


KEYS: Final = {key_of(kind): kind for kind in OWNERS}


@dataclass(frozen=True)
class Finding:
    """What was found in one ConfigMap."""

    left: tuple[Kind, ...] = ()
    """Kinds whose rule somebody else gave."""
    patch: Raw | None = None
    """What to apply without force; None where nothing is to change."""


def find(config: Raw) -> Finding:
    """Compare an `argocd-cm`, as it was read, with our rules."""
    held, owned = at(config, "data") or {}, set(_owned(config))
    elsewhere = set(_named(held.get(_ONE_KEY, "")))
    left = [
        key
        for key, kind in KEYS.items()
        if kind in elsewhere or (key not in owned and held.get(key, RULE) != RULE)
    ]
    wanted = {key: RULE for key in KEYS if key not in left}
    is_done = wanted.items() <= held.items() and not owned.intersection(left)
    return Finding(tuple(KEYS[key] for key in left), None if is_done else _patch(config, wanted))


def _patch(config: Raw, rules: Mapping[str, str]) -> Raw:
    metadata = config["metadata"]
    return {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.kind,
        # Pinned: where Argo CD's own is gone meanwhile, none of ours takes its place.
        "metadata": {key: metadata[key] for key in ("namespace", "name", "uid")},
        "data": dict(rules),
    }


def _owned(config: Raw) -> Iterator[str]:
    """Keys that are there by our word."""
    for entry in at(config, "metadata", "managedFields") or ():
        if (entry.get("manager"), entry.get("operation")) == (MANAGER, "Apply"):
            fields = at(entry, "fieldsV1", "f:data") or {}
            yield from (KEYS.keys() & {field.removeprefix("f:") for field in fields})


def _named(text: str) -> Iterator[Kind]:
    """Kinds that the older form has a rule for, by name or as all kinds of our group."""
    group = OWNERS[0].group
    if group not in text:
        return
    try:
        rules: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        return  # Argo CD cannot read it either
    for kind in OWNERS:
        names = (f"{group}/{kind.kind}", f"{group}/*")
        if any(at(rules, name, "health.lua") for name in names):
            yield kind


def manifest() -> list[str]:
    """The ConfigMap as lines of YAML, for a repository or for `kubectl apply --server-side`."""
    lines = [f"apiVersion: {CONFIG_MAP.api_version}", f"kind: {CONFIG_MAP.kind}", "metadata:"]
    lines += [f"  name: {CONFIG}", "data:"]
    for key in KEYS:
        lines += [f"  {key}: |", *(f"    {line}" for line in RULE.splitlines())]
    return lines
