"""The operator's view of the cluster, fed by watches, by listings and by its own writes.

An older version of an object never replaces a newer one, so the three feeds may overtake each
other. Changes are told to one listener, which decides whom to reconcile.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, JOB, Kind, Raw, at
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL, STORE_LABEL, WORKER_LABEL
from pitcrew_operator.slim import is_same, slim
from pitcrew_operator.views import COMPONENT_LABEL, JOB_NAME_LABEL

Listener = Callable[[Kind, Raw], None]

EVERYWHERE: Final = ""
_REMEMBERED_DELETIONS: Final = 4096


class Store:
    """Objects by kind, namespace and name, and by what they refer to."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._objects: dict[Kind, dict[tuple[str, str], Raw]] = defaultdict(dict)
        self._index: dict[tuple[Kind, str, str], dict[str, Raw]] = defaultdict(dict)
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._served: set[Kind] = set()

    def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """One object."""
        return self._objects[kind].get((namespace, name))

    def known(self, kind: Kind, raw: Raw) -> Raw:
        """What is held of this very version of an object, else the object itself."""
        held = self.get(kind, *_key(raw))
        return held if held is not None and _version(held) == _version(raw) else raw

    def all(self, kind: Kind) -> Iterator[Raw]:
        """Every object of a kind."""
        return iter(tuple(self._objects[kind].values()))

    def serves(self, kind: Kind) -> bool:
        """Whether the cluster knows an optional kind, as far as was heard."""
        return kind in self._served

    def serve(self, kind: Kind, *, served: bool) -> None:
        """Take note of whether the cluster knows an optional kind."""
        if served:
            self._served.add(kind)
        else:
            self._served.discard(kind)

    def count(self, kind: Kind) -> int:
        """How many objects of a kind there are."""
        return len(self._objects[kind])

    def refer(self, kind: Kind, namespace: str, reference: str) -> list[Raw]:
        """Objects that refer so, such as `engine=tiny`: see `references`. In namespace EVERYWHERE are
        the Jobs on an engine store, which may be a bucket of several namespaces.
        """
        return list(self._index.get((kind, namespace, reference), {}).values())

    def put(self, kind: Kind, raw: Raw) -> None:
        """Take an object in, unless it is older than what is known.

        Controllers and kubelets report much that nobody reads here: then the listener is not told.
        """
        namespace, name = _key(raw)
        known = self.get(kind, namespace, name)
        if raw["metadata"].get("uid") in self._deleted or (known and not _is_newer(raw, known)):
            return
        slimmed = slim(kind, raw)
        if known:
            self._unindex(kind, known)
        self._objects[kind][namespace, name] = slimmed
        for place, entry in _places(kind, slimmed):
            self._index[place][entry] = slimmed
        if known is None or not is_same(known, slimmed):
            self._listener(kind, slimmed)

    def remove(self, kind: Kind, raw: Raw) -> None:
        """Forget a deleted object."""
        uid = raw["metadata"].get("uid")
        if uid:
            self._remember(uid)
        known = self.get(kind, *_key(raw))
        if known is None or (uid and known["metadata"].get("uid") != uid):
            return
        self._unindex(kind, known)
        del self._objects[kind][_key(raw)]
        self._listener(kind, known)

    def replace(
        self, kind: Kind, found: Iterable[Raw], resource_version: str, namespace: str | None
    ) -> None:
        """Take a whole listing in; what it lacks is gone, unless it is younger than the listing.

        `namespace` is the listing's scope; None means all of them.
        """
        listed = {_key(raw): raw for raw in found}
        for raw in listed.values():
            self.put(kind, raw)
        for key, known in tuple(self._objects[kind].items()):
            in_scope = namespace is None or key[0] == namespace
            if in_scope and key not in listed and _is_covered(known, resource_version):
                self.remove(kind, known)

    def _unindex(self, kind: Kind, known: Raw) -> None:
        for place, entry in _places(kind, known):
            bucket = self._index[place]
            bucket.pop(entry, None)
            if not bucket:
                del self._index[place]

    def _remember(self, uid: str) -> None:
        """A late answer to an own write must not bring a deleted object back."""
        self._deleted[uid] = None
        while len(self._deleted) > _REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)


def _places(kind: Kind, raw: Raw) -> Iterator[tuple[tuple[Kind, str, str], str]]:
    """Where an object stands in the index, and under which name there."""
    namespace, name = _key(raw)
    for reference in references(kind, raw):
        yield (kind, namespace, reference), name
    work = _store_work(raw) if kind is JOB else None
    if work is not None:
        yield (kind, EVERYWHERE, work), f"{namespace}/{name}"


def _store_work(raw: Raw) -> str | None:
    """What a Job does on an engine store, and on which."""
    labels = raw["metadata"].get("labels") or {}
    if STORE_LABEL not in labels or COMPONENT_LABEL not in labels:
        return None
    return f"{labels[COMPONENT_LABEL]}={labels[STORE_LABEL]}"


def references(kind: Kind, raw: Raw) -> list[str]:
    """What an object can be found by: its owner by label, or the objects that its spec names.

    Jobs on an engine store are found by what they do there: all that build are thousands, all that
    remove a few.
    """
    found = list[str]()
    if kind is DEPLOYMENT:
        return [f"engine={at(raw, 'spec', 'engineRef', 'name')}"]
    if kind is ENGINE:
        claims = (
            at(raw, "spec", "store", "claimName"),
            at(raw, "spec", "model", "volume", "claimName"),
        )
        return sorted({f"claim={claim}" for claim in claims})
    if kind is JOB:
        owners = raw["metadata"].get("ownerReferences") or ()
        found = [f"engine={owner['name']}" for owner in owners if owner["kind"] == ENGINE.kind]
    labels = raw["metadata"].get("labels") or {}
    work = _store_work(raw)
    found += [work] if work is not None else []
    return found + [f"{name}={labels[label]}" for name, label in _NAMED if label in labels]


_NAMED: Final = (
    ("job", JOB_NAME_LABEL),
    ("deployment", DEPLOYMENT_LABEL),
    ("deployment", WORKER_LABEL),
)


def _key(raw: Raw) -> tuple[str, str]:
    return raw["metadata"].get("namespace") or "", raw["metadata"]["name"]


def _version(raw: Raw) -> tuple[str | None, str | None]:
    return raw["metadata"].get("uid"), raw["metadata"].get("resourceVersion")


def _is_newer(raw: Raw, known: Raw) -> bool:
    """Resource versions are integers in every API server; equal ones are the same object."""
    new, old = raw["metadata"], known["metadata"]
    if new.get("uid") != old.get("uid"):
        return True
    versions = new.get("resourceVersion") or "", old.get("resourceVersion") or ""
    if not (versions[0].isdigit() and versions[1].isdigit()):
        return versions[0] != versions[1]
    return int(versions[0]) > int(versions[1])


def _is_covered(known: Raw, resource_version: str) -> bool:
    version = known["metadata"].get("resourceVersion") or ""
    if not (version.isdigit() and resource_version.isdigit()):
        return True
    return int(version) <= int(resource_version)
