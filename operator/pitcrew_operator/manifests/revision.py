"""A revision: one way to run the pods of an LLMDeployment.

Engine, image and every field that shapes a pod are in its template, and its name follows from that:
equal templates are one revision. How many pods of it run, and what keeps them running, is not its
matter (`workload`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pitcrew_operator.api.common import dump
from pitcrew_operator.api.pod_template import PodTemplate
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import DEPLOYMENT
from pitcrew_operator.manifests import names, ranks
from pitcrew_operator.manifests.overlay import overlaid
from pitcrew_operator.manifests.ranks import Role
from pitcrew_operator.manifests.serving_pod import pod_spec
from pitcrew_operator.views import Deployment, Meta


@dataclass(frozen=True)
class Revision:
    """What a workload is made from."""

    owner: Meta
    engine: EngineStatus
    hash: str
    """Hex digits that stand for the template."""
    template: Mapping[str, Any]
    """The pod template. Its labels hold the selector."""
    startup_seconds: int
    """What a pod gets to become ready."""
    pods: int = 1
    """Pods of one replica; the first answers requests."""
    worker_template: Mapping[str, Any] | None = None
    """The template of the others, where there are any."""

    @property
    def name(self) -> str:
        """Of the workload."""
        return names.revision_name(self.owner.name, self.hash)

    @property
    def selector(self) -> dict[str, str]:
        """Labels of the pods of this revision alone."""
        return {**names.serving_selector(self.owner.name), names.REVISION_LABEL: self.hash}

    @property
    def metadata(self) -> dict[str, Any]:
        """Of the workload: owned by the LLMDeployment, found by its labels, and telling its engine."""
        return {
            "name": self.name,
            "namespace": self.owner.namespace,
            "labels": names.labels("runtime", self.owner.name, self.selector),
            "annotations": {
                names.ENGINE_ID_ANNOTATION: self.engine.id,
                names.ENGINE_TAG_ANNOTATION: self.engine.tag,
            },
            "ownerReferences": [names.owner_reference(DEPLOYMENT, self.owner)],
        }


def revision_of(
    owner: Deployment, engine: EngineStatus, default_model_name: str, config: Config
) -> Revision:
    """The revision that the spec asks for. Raises ValueError where `kvMemory` is no quantity."""

    def template(role: Role) -> dict[str, Any]:
        spec = pod_spec(owner, engine, default_model_name, config, role)
        return _template(owner, engine, role, spec)

    pods = ranks.pods(owner, engine)
    if pods == 1:
        return _named(owner, engine, template(Role.ONLY), None, pods)
    return _named(owner, engine, template(Role.LEADER), template(Role.WORKER), pods)


def _named(
    owner: Deployment,
    engine: EngineStatus,
    template: dict[str, Any],
    worker: dict[str, Any] | None,
    pods: int,
) -> Revision:
    content = {**template["metadata"], "spec": template["spec"]}
    hash_ = names.digest(content if worker is None else {**content, "worker": worker, "pods": pods})
    for each in (template, worker):
        if each is not None:
            each["metadata"]["labels"][names.REVISION_LABEL] = hash_
    return Revision(
        owner=owner.meta,
        engine=engine,
        hash=hash_,
        template=template,
        startup_seconds=owner.spec.runtime.startup_seconds,
        pods=pods,
        worker_template=worker,
    )


def _template(
    owner: Deployment, engine: EngineStatus, role: Role, spec: dict[str, Any]
) -> dict[str, Any]:
    name = owner.meta.name
    own = names.worker_selector(name) if role is Role.WORKER else names.serving_selector(name)
    metadata = {
        "labels": names.labels("runtime", name, own),
        "annotations": {names.ENGINE_ID_ANNOTATION: engine.id},
    }
    return _laid_over({"metadata": metadata, "spec": spec}, owner.spec.runtime.pod_template)


def _laid_over(template: dict[str, Any], above: PodTemplate | None) -> dict[str, Any]:
    """The template under the user's own fields; what is ours was refused there before."""
    if above is None:
        return template
    return overlaid(template, {"metadata": dump(above.metadata), "spec": above.spec})
