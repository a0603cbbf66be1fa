"""Which engine an LLMDeployment serves: the version that it names, else the one proven last."""

from pitcrew_builder.manifest import short_id
from pitcrew_operator import reasons
from pitcrew_operator.api.version import EngineStatus, Phase
from pitcrew_operator.manifests import ranks
from pitcrew_operator.manifests.gpu import GPU
from pitcrew_operator.plan.conditions import Situation, recall, reconciling, stalled
from pitcrew_operator.quantity import parse_quantity
from pitcrew_operator.views import Deployment, Engine


def served(owner: Deployment, engine: Engine | None) -> EngineStatus | Situation:
    """The engine, or why there is none that could be served."""
    if engine is None:
        return _not_found(owner)
    asked = owner.spec.engine_ref.version
    found = engine.status.engine if asked is None else _version(engine, asked)
    if found is None:
        return _not_ready(engine) if asked is None else _no_version(owner, engine, asked)
    return _disagreement(owner, found) or found


def _version(engine: Engine, asked: str) -> EngineStatus | None:
    ready = (version for version in engine.status.versions if version.phase is Phase.READY)
    return next((v.engine for v in ready if v.id and v.id.startswith(asked)), None)


def _disagreement(owner: Deployment, engine: EngineStatus) -> Situation | None:
    """Ranks of the engine, of the spec, and the GPUs of a pod are one number."""
    gpus = _gpus(owner)
    if owner.spec.world_size not in (None, engine.world_size):
        return _world_size_mismatch(owner, engine)
    held = ranks.held(owner, engine)
    if engine.world_size % held:
        return _uneven(held, engine)
    if gpus is not None and engine.cuda is not None and gpus != held:
        return stalled(
            reasons.GPU_COUNT_MISMATCH,
            f"spec.runtime.resources.limits['{GPU}'] is {gpus}, and a pod of engine {engine.tag} "
            f"runs on {held} GPUs, one for each rank; set it to {held}",
        )
    return None


def _uneven(held: int, engine: EngineStatus) -> Situation:
    fitting = [n for n in range(1, engine.world_size + 1) if engine.world_size % n == 0]
    return stalled(
        reasons.WORLD_SIZE_MISMATCH,
        f"spec.ranksPerPod is {held}, which does not divide the {engine.world_size} ranks of engine "
        f"{engine.tag}; set it to one of {', '.join(map(str, fitting))}",
    )


def _gpus(owner: Deployment) -> int | None:
    limit = owner.spec.runtime.resources.limits.get(GPU)
    try:
        return None if limit is None else int(parse_quantity(limit))
    except ValueError:
        return None  # the API server refuses the pod and says why


def _not_found(owner: Deployment) -> Situation:
    name, namespace = owner.spec.engine_ref.name, owner.meta.namespace
    return reconciling(
        reasons.ENGINE_NOT_FOUND,
        f"LLMEngine {name} does not exist in namespace {namespace}; create it or correct "
        "spec.engineRef.name",
    )


def _not_ready(engine: Engine) -> Situation:
    # How far a build has come is told by the engine; to repeat it here would write with each step.
    told = recall(engine.status.conditions)
    why = f" ({told.reason})" if told is not None and told.is_warning else ""
    return reconciling(
        reasons.ENGINE_NOT_READY,
        f"LLMEngine {engine.meta.name} has no engine yet{why}; see kubectl describe llmengine "
        f"--namespace {engine.meta.namespace} {engine.meta.name}",
    )


def _no_version(owner: Deployment, engine: Engine, asked: str) -> Situation:
    ready = [short_id(v.id) for v in engine.status.versions if v.id and v.phase is Phase.READY]
    return stalled(
        reasons.VERSION_NOT_FOUND,
        f"LLMEngine {engine.meta.name} has no proven version {asked}; set "
        f"spec.engineRef.version to one of its status.versions ({', '.join(ready) or 'none yet'}) or "
        "leave it out for the version that was proven last",
    )


def _world_size_mismatch(owner: Deployment, engine: EngineStatus) -> Situation:
    return stalled(
        reasons.WORLD_SIZE_MISMATCH,
        f"spec.worldSize is {owner.spec.world_size}, but engine {engine.tag} was built for world "
        f"size {engine.world_size}; set spec.worldSize to {engine.world_size} or leave it out, or "
        "rebuild the engine with parallelism whose product is "
        f"{owner.spec.world_size}",
    )
