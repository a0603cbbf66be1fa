"""The revision that the spec of an LLMDeployment asks for now."""

from pitcrew_operator import reasons
from pitcrew_operator.config import Config
from pitcrew_operator.manifests.revision import Revision, revision_of
from pitcrew_operator.plan.conditions import Situation, stalled
from pitcrew_operator.plan.served import served
from pitcrew_operator.views import Deployment, Engine


def target_of(owner: Deployment, source: Engine | None, config: Config) -> Revision | Situation:
    """The revision, or why there is none that could be served."""
    engine = served(owner, source)
    if isinstance(engine, Situation):
        return engine
    assert source is not None, "an engine was found in it"
    try:
        return revision_of(owner, engine, source.spec.model.name or engine.model, config)
    except ValueError as error:
        return stalled(reasons.INVALID_SPEC, f"spec.runtime.kvMemory: {error}")
