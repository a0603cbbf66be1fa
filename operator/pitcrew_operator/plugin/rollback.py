"""`kubectl pitcrew rollback`: serve an earlier version of the engine again.

It writes `spec.engineRef.version`, as a person would. Versions are kept for this (`spec.retention`).
"""

from dataclasses import dataclass
from typing import Final

from pitcrew_builder.manifest import short_id
from pitcrew_operator.api.version import EngineVersion, Phase
from pitcrew_operator.kinds import Raw
from pitcrew_operator.plugin.kubectl import PluginError
from pitcrew_operator.views import Deployment, Engine

_GITOPS: Final = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}


@dataclass(frozen=True)
class Rollback:
    """What to write, and what to tell."""

    patch: dict[str, object]
    told: str


def rollback(owner: Deployment, engine: Engine, wanted: str | None) -> Rollback:
    """Go to the version of that id (or its first digits), else to the one that was served before.

    Raises PluginError where there is no such version that is ready, or more than one.
    """
    before = owner.status.previous_engine
    asked = wanted or (before.id if before else None)
    if asked is None:
        raise PluginError(
            f"llmdeployment/{owner.meta.name} has served no other engine before; name a version "
            f"with --to: {_ready(engine)}"
        )
    version = _find(engine, asked)
    id_ = version.id or ""
    served = owner.status.engine
    if served is not None and served.id == id_ and owner.spec.engine_ref.version is not None:
        raise PluginError(f"llmdeployment/{owner.meta.name} is held at {short_id(id_)} already")
    return Rollback(
        {"spec": {"engineRef": {"version": short_id(id_)}}},
        f"llmdeployment/{owner.meta.name} goes to {version.tag} ({short_id(id_)}) and stays there; "
        f"`kubectl pitcrew rollback {owner.meta.name} --undo` lets it follow its engine again",
    )


def undo(owner: Deployment) -> Rollback:
    """Follow the engine again. Raises PluginError where it does."""
    if owner.spec.engine_ref.version is None:
        raise PluginError(f"llmdeployment/{owner.meta.name} is held at no version")
    return Rollback(
        {"spec": {"engineRef": {"version": None}}},
        f"llmdeployment/{owner.meta.name} follows llmengine/{owner.spec.engine_ref.name} again",
    )


def keeper(raw: Raw) -> str | None:
    """What keeps the resource as a repository says, and would take a change back."""
    metadata = raw["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    return next((name for mark, name in _GITOPS.items() if mark in marks), None)


def _find(engine: Engine, asked: str) -> EngineVersion:
    found = [v for v in engine.status.versions if v.id and v.id.startswith(asked)]
    ready = [v for v in found if v.phase is Phase.READY]
    if len(ready) == 1:
        return ready[0]
    what = (
        "several versions"
        if ready
        else f"a version that is {found[0].phase}"
        if found
        else "no version"
    )
    raise PluginError(
        f"{asked} names {what} of llmengine/{engine.meta.name}; ready are: {_ready(engine)}"
    )


def _ready(engine: Engine) -> str:
    ids = [short_id(v.id) for v in engine.status.versions if v.id and v.phase is Phase.READY]
    return ", ".join(ids) or "none"
