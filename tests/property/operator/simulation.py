"""A cluster in memory: objects, versions, owners, and watches that deliver when a test says so.

It keeps the promises that the operator relies on (server-side apply by one manager, UID
preconditions, background deletion of dependants, immutable Job templates) and counts what is
written. Controllers and the kubelet are moved by hand.
"""

import itertools
import json
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pitcrew_operator.cluster import Known, as_it_is
from pitcrew_operator.errors import Conflict, Gone, Unavailable
from pitcrew_operator.kinds import JOB, POD, SERVICE, WORKLOAD, Kind, Raw, kind_of
from pitcrew_operator.views import COMPONENT_LABEL, JOB_NAME_LABEL, Meta

Object = dict[str, Any]
BEGAN = datetime(2026, 11, 1, 11, 59, tzinfo=UTC)


class SimulatedCluster:
    """Implements `pitcrew_operator.cluster.Cluster`, and the hands of everybody else."""

    def __init__(self, now: Callable[[], datetime] = lambda: BEGAN) -> None:
        self._now = now
        self.objects: dict[tuple[Kind, str], Object] = {}
        self.pending: deque[tuple[str, Kind, Object]] = deque()
        self.created: Counter[str] = Counter()
        self.writes = 0
        self.events: list[Raw] = []
        self.logs: dict[str, str] = {}
        self.refuse_after: int | None = None
        """Writes that still succeed; afterwards the API server is away."""
        self.listeners: list[Callable[[str, Kind, Object], None]] = []
        """Told of every change at once, besides the watches in `pending`."""
        self._numbers = itertools.count(1)

    # What the operator uses.

    async def list_all(
        self, kind: Kind, namespace: str | None, known: Known = as_it_is
    ) -> tuple[list[Raw], str]:
        found = [_copy(o) for (k, _), o in self.objects.items() if k is kind]
        return [known(raw) for raw in found], str(next(self._numbers))

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        return _copy(self.objects.get((kind, name)))

    async def select(self, kind: Kind, namespace: str | None, selector: str) -> list[Raw]:
        key, _, value = selector.partition("=")
        everything = (await self.list_all(kind, namespace))[0]
        return [o for o in everything if o["metadata"].get("labels", {}).get(key) == value]

    async def apply(self, manifest: Raw) -> Raw:
        self._write()
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        known = self.objects.get((kind, name))
        if known is None:
            created = self.create(kind, manifest)
            self._collect(kind, created)
            return created
        if kind is JOB:
            return _copy(known)
        merged = {
            key: known["metadata"].get(key, {}) | manifest["metadata"].get(key, {})
            for key in ("labels", "annotations")
        }
        metadata = known["metadata"] | merged
        spec = _copy(manifest["spec"]) | _given(kind, known["spec"])
        return self.update(kind, name, spec=spec, metadata=metadata)

    async def apply_status(self, manifest: Raw) -> Raw:
        self._write()
        kind, metadata = kind_of(manifest), manifest["metadata"]
        known = self.objects.get((kind, metadata["name"]))
        if known is None or known["metadata"]["uid"] != metadata["uid"]:
            raise Gone(404, "no such object")
        if known["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise Conflict("409: the object has been modified")
        return self.update(kind, metadata["name"], status=_copy(manifest["status"]))

    async def patch(self, kind: Kind, meta: Meta, fields: Raw) -> Raw:
        self._write()
        known = self.objects.get((kind, meta.name))
        if known is None:
            raise Gone(404, "no such object")
        if known["metadata"]["resourceVersion"] != meta.version:
            raise Unavailable("409: the object has been modified")
        parts = {key: {**known[key], **value} for key, value in fields.items()}
        return self.update(kind, meta.name, **_copy(parts))

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        self._write()
        known = self.objects.get((kind, name))
        if known is not None and known["metadata"]["uid"] == uid:
            self.remove(kind, name)

    async def create_event(self, event: Raw) -> None:
        self.events.append(event)

    async def pod_log(self, namespace: str, pod: str, lines: int) -> str:
        return self.logs.get(pod, "")

    # What everybody else does.

    def create(self, kind: Kind, manifest: Raw) -> Object:
        """Create an object, as a user or controller would."""
        found = _copy(dict(manifest))
        number = next(self._numbers)
        if kind is SERVICE:
            found["spec"] = found["spec"] | {"clusterIP": f"10.96.0.{number % 256}"}
        created = f"{self._now():%Y-%m-%dT%H:%M:%S}.{number:06}Z"
        stamp = {"uid": f"uid-{number}", "generation": 1}
        found["metadata"] = {"creationTimestamp": created} | found["metadata"] | stamp
        self.created[f"{kind.kind}/{found['metadata']['name']}"] += 1
        return self._store(kind, found)

    def update(self, kind: Kind, name: str, **parts: Any) -> Object:  # noqa: ANN401
        """Replace parts of an object; a changed spec is a new generation."""
        found = _copy(self.objects[kind, name])
        if {**found, **parts} == found:
            return found
        if "spec" in parts and parts["spec"] != found["spec"]:
            found["metadata"]["generation"] += 1
        return self._store(kind, found | parts)

    def remove(self, kind: Kind, name: str) -> None:
        """Delete an object and whatever it owns."""
        found = self.objects.pop((kind, name))
        found["metadata"]["resourceVersion"] = str(next(self._numbers))
        self._tell("DELETED", kind, found)
        for child_kind, child in list(self.objects):
            if (child_kind, child) not in self.objects:
                continue  # it went with a child before it
            owners = self.objects[child_kind, child]["metadata"].get("ownerReferences", ())
            left = [owner for owner in owners if owner["uid"] != found["metadata"]["uid"]]
            if len(left) == len(owners):
                continue
            if left:
                metadata = self.objects[child_kind, child]["metadata"]
                self.update(child_kind, child, metadata=metadata | {"ownerReferences": left})
            else:
                self.remove(child_kind, child)

    def deliver(self, put: Callable[..., None], remove: Callable[..., None]) -> None:
        """Let the watches catch up by one event."""
        kind_of_event, kind, found = self.pending.popleft()
        (remove if kind_of_event == "DELETED" else put)(kind, found)

    def jobs(self, component: str = "build") -> list[Object]:
        """Every Job that is for this."""
        return [
            found
            for (kind, _), found in self.objects.items()
            if kind is JOB and found["metadata"]["labels"][COMPONENT_LABEL] == component
        ]

    def pods_of(self, job: Object) -> list[Object]:
        """The pods of a Job."""
        name = job["metadata"]["name"]
        pods = [o for (kind, _), o in self.objects.items() if kind is POD]
        return [p for p in pods if p["metadata"]["labels"].get(JOB_NAME_LABEL) == name]

    def start_pod(self, job: Object) -> None:
        """The Job controller and the kubelet start a try."""
        metadata, template = job["metadata"], job["spec"]["template"]
        number = next(self._numbers)
        labels = template["metadata"]["labels"] | {JOB_NAME_LABEL: metadata["name"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{metadata['name']}-{number}",
                "namespace": metadata["namespace"],
                "labels": labels,
                "creationTimestamp": f"2026-11-01T11:59:00.{number:06}Z",
                "ownerReferences": [{"kind": "Job", "name": "", "uid": metadata["uid"]}],
            },
            "spec": template["spec"],
            "status": _container("running"),
        }
        self.create(POD, pod)

    def end_pod(self, pod: Object, message: str, code: int) -> None:
        """The container ends."""
        status = _container("terminated", exitCode=code, message=message, reason="")
        self.update(POD, pod["metadata"]["name"], status=status)

    def end_job(self, job: Object, condition: str, reason: str = "") -> None:
        """The Job controller draws its conclusion."""
        ended = {
            "type": condition,
            "status": "True",
            "reason": reason,
            "lastTransitionTime": "2026-11-01T11:59:00Z",
        }
        self.update(JOB, job["metadata"]["name"], status={"conditions": [ended]})

    def workloads(self) -> list[Object]:
        """Every workload of a revision, the oldest first."""
        found = [o for (kind, _), o in self.objects.items() if kind is WORKLOAD]
        return sorted(found, key=lambda o: str(o["metadata"]["creationTimestamp"]))

    def roll_out(self, workload: Object) -> None:
        """The Deployment controller and the kubelet do what the workload asks for."""
        name = workload["metadata"]["name"]
        found = self.objects[WORKLOAD, name]
        count = found["spec"]["replicas"]
        fields = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        status = dict.fromkeys(fields, count)
        status["observedGeneration"] = found["metadata"]["generation"]
        self.update(WORKLOAD, name, status=status)

    def _collect(self, kind: Kind, child: Object) -> None:
        """The garbage collector: a child whose owners were all gone before it came goes too."""
        owners = {owner["uid"] for owner in child["metadata"].get("ownerReferences", ())}
        alive = {found["metadata"]["uid"] for found in self.objects.values()}
        if owners and not owners & alive:
            self.remove(kind, child["metadata"]["name"])

    def _write(self) -> None:
        self.writes += 1
        if self.refuse_after is not None:
            if self.refuse_after <= 0:
                raise Unavailable("the API server is away")
            self.refuse_after -= 1

    def _store(self, kind: Kind, found: Object) -> Object:
        found["metadata"] |= {"resourceVersion": str(next(self._numbers))}
        self.objects[kind, found["metadata"]["name"]] = found
        self._tell("MODIFIED", kind, found)
        return _copy(found)

    def _tell(self, change: str, kind: Kind, found: Object) -> None:
        self.pending.append((change, kind, _copy(found)))
        for listener in self.listeners:
            listener(change, kind, _copy(found))


def _copy(document: Any) -> Any:  # noqa: ANN401 (any JSON value)
    return json.loads(json.dumps(document))


def _given(kind: Kind, spec: Object) -> Object:
    """What the server gave an object, and nobody else owns."""
    return {"clusterIP": spec["clusterIP"]} if kind is SERVICE else {}


def _container(state: str, **fields: object) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "build", "state": {state: fields}}]}
