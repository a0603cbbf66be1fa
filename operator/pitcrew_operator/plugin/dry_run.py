"""`kubectl pitcrew plan`: what the operator would do next, found by the operator's own planning.

The same observation and the same pure plans run here, over what the user may read; writes are
collected and not made. So the answer cannot differ from what happens, but for what changes between.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from pitcrew_builder.manifest import size_text
from pitcrew_operator.ask.asker import SilentAsker
from pitcrew_operator.cluster import Known, as_it_is
from pitcrew_operator.config import PREFIX, Config
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, JOB, NODE, OPTIONAL, Kind, Raw, kind_of
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.plugin.kubectl import Kubectl, PluginError
from pitcrew_operator.plugin.subject import Subject
from pitcrew_operator.reconcile import Key, Reconciler, utc_now
from pitcrew_operator.store import Store
from pitcrew_operator.views import InvalidResource, Meta, engine_of

_OPERATORS = "app.kubernetes.io/component=operator"
"""Of whatever product: ours is the one with our settings, as its chart lets everybody choose its name."""


@dataclass
class DryCluster:
    """A `Cluster` that reads by kubectl and keeps what would be written."""

    kubectl: Kubectl
    writes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """Situations that the status would tell."""

    async def list_all(
        self, kind: Kind, namespace: str | None, known: Known = as_it_is
    ) -> tuple[list[Raw], str]:
        """See Cluster."""
        return self.kubectl.list(kind, kind.selector), "0"

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """See Cluster."""
        return self.kubectl.find(kind, name)

    async def select(self, kind: Kind, namespace: str | None, selector: str) -> list[Raw]:
        """See Cluster."""
        return self.kubectl.list(kind, selector)

    async def apply(self, manifest: Raw) -> Raw:
        """See Cluster."""
        found = await self.get(kind_of(manifest), "", manifest["metadata"]["name"])
        self._note("change" if found else "create", manifest["kind"], manifest["metadata"]["name"])
        return {**manifest, "metadata": {"uid": "planned", **manifest["metadata"]}}

    async def apply_status(self, manifest: Raw) -> Raw:
        """See Cluster."""
        for condition in manifest["status"].get("conditions") or ():
            if condition["status"] == "True" or condition["type"] == "UpToDate":
                text = f"{condition['type']}={condition['status']} {condition['reason']}"
                self.told.append(f"{text}: {condition['message']}")
        return manifest

    async def patch(self, kind: Kind, meta: Meta, fields: Raw) -> Raw:
        """See Cluster."""
        self._note("change", kind.kind, meta.name)
        return fields

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """See Cluster."""
        self._note("delete", kind.kind, name)

    async def create_event(self, event: Raw) -> None:
        """See Cluster."""

    async def pod_log(self, namespace: str, pod: str, lines: int) -> str:
        """See Cluster. Who may not read it, or comes too late, plans without."""
        try:
            return self.kubectl.run("logs", pod, f"--tail={lines}")
        except PluginError:
            return ""

    def _note(self, verb: str, kind: str, name: str) -> None:
        self.writes.append(f"{verb} {kind} {name}")


def settings(operators: list[Raw]) -> Config:
    """The operator's settings, read from its Deployment. Raises PluginError where there is none."""
    for raw in operators:
        for container in raw["spec"]["template"]["spec"]["containers"]:
            found = {e["name"]: e.get("value", "") for e in container.get("env") or ()}
            if f"{PREFIX}BUILDER_IMAGE" in found:
                return Config.from_env(found)
    raise PluginError(
        "no operator was found in this cluster (a Deployment with the label "
        f"{_OPERATORS} and our settings); install the chart, or ask for permission to list Deployments"
    )


async def plan(
    subject: Subject,
    kubectl: Kubectl,
    everywhere: Kubectl,
    now: Callable[[], datetime] = utc_now,
) -> list[str]:
    """The next step towards the spec of `subject`, which need not be applied yet."""
    config = settings(everywhere.json("get", "deployments", "--selector", _OPERATORS)["items"])
    cluster = DryCluster(kubectl)
    store = Store(lambda *_: None)
    for kind in (*config.watched, *OPTIONAL):
        found = await _listed(kind, cluster)
        store.serve(kind, served=found is not None)
        for raw in found or ():
            store.put(kind, raw if not _is(subject, raw) else subject.raw)
    for raw in _builds_elsewhere(config, everywhere):
        store.put(JOB, raw)
    store.put(subject.kind, subject.raw)
    key = Key(subject.kind, subject.namespace, subject.name)
    await Reconciler(cluster, store, config, Metrics(), SilentAsker(), now).reconcile(key)
    return [*_predicted(subject, store), *_step(subject, cluster)]


def _is(subject: Subject, raw: Raw) -> bool:
    return bool(raw["kind"] == subject.kind.kind and raw["metadata"]["name"] == subject.name)


async def _listed(kind: Kind, cluster: DryCluster) -> list[Raw] | None:
    """Nodes need rights that few users have; without them the plan is made as without nodes.

    None for kinds of others that the cluster does not know.
    """
    try:
        return (await cluster.list_all(kind, None))[0]
    except PluginError:
        if kind is NODE or kind in OPTIONAL:
            return None
        raise


def _builds_elsewhere(config: Config, everywhere: Kubectl) -> list[Raw]:
    """Where the number of builds is limited, those of all namespaces stand in one line. Who may not list
    them plans as if there were none.
    """
    if not config.max_parallel_builds:
        return []
    try:
        return everywhere.list(JOB, JOB.selector)
    except PluginError:
        return []


def _step(subject: Subject, cluster: DryCluster) -> list[str]:
    if not cluster.writes and not cluster.told:
        return [f"{subject}: nothing is to be done."]
    lines = (
        ["Next, the operator would"]
        if cluster.writes
        else ["Nothing is to be written but the status."]
    )
    lines += [f"  {write}" for write in cluster.writes]
    return [*lines, *(f"  and tell {told}" for told in cluster.told)]


def _predicted(subject: Subject, store: Store) -> list[str]:
    """What the builder predicted at its last look, for an engine or for the one of a deployment."""
    raw: Raw | None = subject.raw
    if subject.kind is DEPLOYMENT:
        name = ((subject.raw.get("spec") or {}).get("engineRef") or {}).get("name", "")
        raw = store.get(ENGINE, subject.namespace, name)
    if raw is None:
        return []
    try:
        resolution = engine_of(raw).status.resolution
    except InvalidResource:
        return []
    if resolution is None or resolution.answer is None:
        return ["No prediction yet: the builder has not looked at the checkpoint."]
    answer, expected, pool = resolution.answer, resolution.answer.prediction, resolution.pool
    lines = [
        f"Predicted at {resolution.at} for {answer.tag or answer.target_tag}",
        f"  weights of the fullest rank   {size_text(expected.rank_weight_bytes)}",
        f"  activations of that rank      {size_text(expected.rank_activation_bytes)} (an estimate)",
        f"  KV cache of one token         {size_text(expected.kv_bytes_per_token)} over {answer.world_size} rank(s)",
        f"  engine on disk                {size_text(expected.engine_disk_bytes)}",
        f"  room for the build            {size_text(expected.build_disk_bytes)}",
    ]
    if pool is not None:
        lines.append(
            f"  GPUs                          {pool.total} x {pool.product} ({size_text(pool.memory_bytes)})"
        )
    if answer.misfit is not None:
        lines.append(f"  does not fit: {answer.misfit}")
    return [*lines, ""]
