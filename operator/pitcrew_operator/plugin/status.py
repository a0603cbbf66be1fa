"""`kubectl pitcrew status`: how engines and deployments stand, at a glance and one by one."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from pitcrew_builder.manifest import short_id, size_text
from pitcrew_operator.api.autoscaling import Autoscaling
from pitcrew_operator.api.deployment import LLMDeploymentStatus
from pitcrew_operator.api.rollout import RolloutStatus
from pitcrew_operator.api.version import EngineVersion, Phase
from pitcrew_operator.kinds import ENGINE, Raw, at
from pitcrew_operator.plan.conditions import Health, find, recall
from pitcrew_operator.plan.scaling_words import SCALING_ACTIVE, unusual
from pitcrew_operator.plugin.subject import Subject
from pitcrew_operator.plugin.tables import age, table
from pitcrew_operator.views import Deployment, Engine, InvalidResource, deployment_of, engine_of

OLDER: Final = "This is about an older spec: the operator has not read the newest one yet."


def overview(engines: Sequence[Raw], deployments: Sequence[Raw], now: datetime) -> list[str]:
    """Both kinds as tables, and below them the words of those that are not well."""
    if not engines and not deployments:
        return ["No LLMEngine and no LLMDeployment here."]
    parts = []
    if engines:
        parts.append(table(_ENGINE_HEADER, [_engine_row(raw, now) for raw in engines]))
    if deployments:
        parts.append(table(_DEPLOYMENT_HEADER, [_deployment_row(raw, now) for raw in deployments]))
    troubles = [line for raw in (*engines, *deployments) for line in _trouble(raw)]
    return _joined([*parts, troubles])


def detail(subject: Subject, now: datetime) -> list[str]:
    """Everything that the status of one resource tells."""
    try:
        if subject.kind is ENGINE:
            return _engine_detail(engine_of(subject.raw), now)
        return _deployment_detail(deployment_of(subject.raw), now)
    except InvalidResource as error:
        return [f"{subject} cannot be read: {error.problem}"]


_ENGINE_HEADER = (
    "NAMESPACE",
    "ENGINE",
    "READY",
    "REASON",
    "PROGRESS",
    "UP TO DATE",
    "SERVES",
    "AGE",
)
_DEPLOYMENT_HEADER = (
    "NAMESPACE",
    "DEPLOYMENT",
    "READY",
    "REASON",
    "REPLICAS",
    "SERVES",
    "URL",
    "AGE",
)


def _engine_row(raw: Raw, now: datetime) -> list[str]:
    meta, status = raw["metadata"], raw.get("status") or {}
    ready, up_to_date = _condition(raw, "Ready"), _condition(raw, "UpToDate")
    engine = status.get("engine") or {}
    told = [ready.get("status"), ready.get("reason"), status.get("progress")]
    return [
        *(meta["namespace"], meta["name"]),
        *(word or "" for word in told),
        up_to_date.get("reason") or "",
        engine.get("tag") or "",
        age(meta.get("creationTimestamp"), now),
    ]


def _deployment_row(raw: Raw, now: datetime) -> list[str]:
    meta, status = raw["metadata"], raw.get("status") or {}
    ready, engine = _condition(raw, "Ready"), status.get("engine") or {}
    return [
        *(meta["namespace"], meta["name"]),
        *(ready.get(word) or "" for word in ("status", "reason")),
        f"{status.get('readyReplicas') or 0}/{_wanted(raw)}",
        engine.get("tag") or "",
        status.get("url") or "",
        age(meta.get("creationTimestamp"), now),
    ]


def _wanted(raw: Raw) -> int:
    """Replicas that are to serve, whoever says so; autoscaling begins with one where it has not decided."""
    said, decided = at(raw, "spec", "replicas"), at(raw, "status", "autoscaling", "desiredReplicas")
    if at(raw, "spec", "autoscaling"):
        said = decided
    return 1 if said is None else int(said)


def _condition(raw: Raw, kind: str) -> dict[str, str]:
    told = (raw.get("status") or {}).get("conditions") or ()
    return next((dict(c) for c in told if c.get("type") == kind), {})


def _is_current(raw: Raw) -> bool:
    """Whether what the status tells is about the present spec."""
    seen = (raw.get("status") or {}).get("observedGeneration") or 0
    return bool(seen >= (raw["metadata"].get("generation") or 0))


def _trouble(raw: Raw) -> Iterator[str]:
    name = f"{raw['kind'].lower()}/{raw['metadata']['name']}"
    ready, up_to_date = _condition(raw, "Ready"), _condition(raw, "UpToDate")
    if not ready:
        yield f"{name}: the operator has not seen it yet; does one run, and does it serve this namespace?"
    elif ready.get("status") != "True":
        yield f"{name}: {ready.get('reason')}: {ready.get('message')}"
    scaling = _condition(raw, SCALING_ACTIVE)
    if scaling.get("status") == "False" and ready.get("status") == "True":
        yield f"{name}: {scaling.get('reason')}: {scaling.get('message')}"
    if ready and not _is_current(raw):
        yield f"{name}: {OLDER}"
    if up_to_date.get("status") == "False" and ready.get("status") == "True":
        yield f"{name}: {up_to_date.get('reason')}: {up_to_date.get('message')}"


def _engine_detail(engine: Engine, now: datetime) -> list[str]:
    status = engine.status
    head = [
        f"LLMEngine {engine.meta.namespace}/{engine.meta.name}",
        *_headline(engine),
        f"  model      {status.model or '-'}",
        f"  progress   {status.progress or '-'}",
    ]
    serving = status.engine
    if serving is not None:
        place = f"claim {serving.claim_name}" if serving.claim_name else "object storage"
        head += [
            f"  engine     {serving.tag} ({short_id(serving.id)})",
            f"  lies at    {serving.path} on {place}, {size_text(serving.size_bytes)}",
            f"  limits     {serving.max_batch_size} sequences of {serving.max_sequence_length} tokens",
            f"  KV cache   {size_text(serving.kv_bytes_per_token)} a token, over {serving.world_size} rank(s)",
        ]
    rows = [
        _version_row(version, status.current, status.previous, now) for version in status.versions
    ]
    return _joined([head, table(_VERSION_HEADER, rows) if rows else []])


_VERSION_HEADER = ("VERSION", "PHASE", "ROLE", "COMMIT", "TARGET", "SIZE", "SCORES", "BUILT")


def _version_row(
    version: EngineVersion, current: str | None, previous: str | None, now: datetime
) -> list[str]:
    roles = {current: "current", previous: "previous"}
    engine = version.engine
    scores = engine.scores if engine else {}
    return [
        short_id(version.id or ""),
        version.phase.value if version.phase is not Phase.FAILED else f"Failed: {version.reason}",
        roles.get(version.id, "") if version.id else "",
        short_id(version.commit),
        version.target_tag,
        size_text(engine.size_bytes) if engine else "",
        " ".join(f"{name}={value}" for name, value in sorted(scores.items())),
        age(version.finished_at, now) + " ago" if version.finished_at else "",
    ]


def _deployment_detail(owner: Deployment, now: datetime) -> list[str]:
    spec, status = owner.spec, owner.status
    pinned = f", version {spec.engine_ref.version}" if spec.engine_ref.version else ""
    decided = status.autoscaling if spec.autoscaling else None
    wanted = decided.desired_replicas if decided else spec.wanted_replicas
    return [
        f"LLMDeployment {owner.meta.namespace}/{owner.meta.name}",
        *_headline(owner),
        f"  engine     llmengine/{spec.engine_ref.name}{pinned}",
        f"  serves     {_served(status.engine)}",
        f"  before     {_served(status.previous_engine)}",
        f"  rollout    {_rollout(status.rollout)}",
        f"  replicas   {status.ready_replicas} ready of {wanted}",
        *_autoscaling(spec.autoscaling, status, now),
        f"  updated    {status.updated_replicas} of the newest revision",
        f"  url        {status.url or '-'}",
    ]


def _autoscaling(
    asked: Autoscaling | None, status: LLMDeploymentStatus, now: datetime
) -> list[str]:
    """What was decided last, why, and what each signal said."""
    decided = status.autoscaling
    if asked is None or decided is None:
        return []
    since = age(decided.last_scale_time, now)
    change = f"{since} ago: {decided.message}" if since else "as it began"
    lines = [f"  scaling    {asked.min_replicas} to {asked.max_replicas}; {change}"]
    for signal in decided.signals:
        asks = "-" if signal.desired_replicas is None else str(signal.desired_replicas)
        current = signal.current or "not told"
        lines.append(f"             {signal.name} {current} of {signal.target}, asks for {asks}")
    return lines


def _rollout(rollout: RolloutStatus | None) -> str:
    if rollout is None:
        return "-"
    step = f", step {rollout.step} of {rollout.steps}" if rollout.steps else ""
    failed = f", gave up {rollout.failed.engine}" if rollout.failed else ""
    return f"{rollout.phase}{step}, {rollout.weight} % of what serves is the newest{failed}"


def _served(engine: object) -> str:
    if engine is None:
        return "-"
    tag, id_ = getattr(engine, "tag", ""), getattr(engine, "id", "")
    return f"{tag} ({short_id(id_)})"


def _headline(resource: Engine | Deployment) -> list[str]:
    """The condition that is true, and the facts beside it where they have something to say."""
    told, seen = resource.status.conditions, resource.status.observed_generation
    situation, fact = recall(told), find(told, "UpToDate")
    if situation is None:
        return ["  not seen by an operator yet"]
    word = "is ready" if situation.health is Health.READY else situation.health.value.lower()
    lines = [f"  {word}: {situation.reason}: {situation.message}"]
    if seen < resource.meta.generation:
        lines.append(f"  {OLDER}")
    if fact is not None and fact.status != "True":
        lines.append(f"  not up to date: {fact.reason}: {fact.message}")
    lines += [f"  {c.type}={c.status}: {c.reason}: {c.message}" for c in unusual(told)]
    return lines


def _joined(parts: Sequence[Sequence[str]]) -> list[str]:
    """Paragraphs with an empty line between them."""
    lines: list[str] = []
    for part in parts:
        if part:
            lines += ["", *part] if lines else part
    return lines
