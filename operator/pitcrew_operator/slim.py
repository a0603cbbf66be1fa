"""What is kept of an object: the parts that are read. Ten thousand of them fit into little memory.

It is applied as soon as an object has been parsed, and to one that is slim already it changes nothing.
"""

from pitcrew_operator.kinds import CLAIM, JOB, NODE, POD, Kind, Raw


def slim(kind: Kind, raw: Raw) -> Raw:
    """The object without who manages its fields, and without what is never read of its kind."""
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    slimmed = {**raw, "metadata": metadata}
    if kind is CLAIM:
        slimmed.pop("spec", None)
    if kind is JOB:
        slimmed["spec"] = {"suspend": bool((raw.get("spec") or {}).get("suspend"))}
    if kind is NODE:
        kept = {k: v for k, v in metadata.items() if k != "annotations"}
        return {"metadata": kept, "spec": _pick(raw.get("spec") or {}, "unschedulable")}
    if kind is POD:
        slimmed["spec"] = _slim_pod(raw.get("spec") or {})
    return slimmed


def _slim_pod(spec: Raw) -> Raw:
    containers = [_pick(each, "name", "image") for each in spec.get("containers") or ()]
    steps = [_pick(s, "name", "restartPolicy") for s in spec.get("initContainers") or ()]
    return {"containers": containers, "initContainers": [s for s in steps if len(s) > 1]}


def _pick(document: Raw, *keys: str) -> Raw:
    return {key: document[key] for key in keys if key in document}
