"""Read-only data for pods, such as model checkpoints: a directory of this machine as a bound claim.

The directory is copied into the node's volumes; the claim is bound to it by name, so no class and
no provisioner is asked. Copying again replaces the content under the same claim.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from devcluster import node
from devcluster.cluster import apply
from devcluster.config import NODE, Config
from devcluster.errors import DevclusterError

Document = dict[str, Any]
INSIDE = "/var/lib/volumes"
CLASS = "devcluster-data"
CAPACITY = "1Ti"  # a ceiling for the claim to ask under; nothing is reserved


def offer(config: Config, name: str, directory: Path, namespace: str) -> int:
    """Copy `directory` to the node and offer it as the claim `name` in `namespace`.

    Returns:
        The bytes copied.

    Raises:
        NotRunning: there is no running cluster.
        DevclusterError: the name or directory will not do, or the API server refused.
    """
    node.require(config)
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,52}[a-z0-9])?", name):
        raise DevclusterError(f"volume name {name!r}: use lower-case letters, digits and dashes")
    if not directory.is_dir():
        raise DevclusterError(f"{directory} is no directory")
    size = _copy(directory, config.data / "volumes" / volume_name(name, namespace))
    manifest = config.state / f"volume-{namespace}-{name}.json"
    manifest.write_text(json.dumps(manifests(name, namespace)))
    try:
        apply(config, manifest)
    finally:
        manifest.unlink()
    return size


def volume_name(name: str, namespace: str) -> str:
    """The cluster-wide name of a namespace's volume."""
    return f"data-{namespace}-{name}"


def manifests(name: str, namespace: str) -> Document:
    """The namespace, the volume and the claim that is bound to it."""
    volume = volume_name(name, namespace)
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    shared = {"accessModes": ["ReadOnlyMany"], "storageClassName": CLASS}
    space: Document = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace},
    }
    offered: Document = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume},
        "spec": {
            **shared,
            "capacity": {"storage": CAPACITY},
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": name},
            "local": {"path": f"{INSIDE}/{volume}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
    claim: Document = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            **shared,
            "volumeName": volume,
            "resources": {"requests": {"storage": CAPACITY}},
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [space, offered, claim]}


def _copy(source: Path, target: Path) -> int:
    """Make `target` hold exactly what `source` holds, readable by every user; programs stay ones.

    The directory itself stays: pods that have it mounted see the new content.
    """
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    shutil.copytree(source, target, dirs_exist_ok=True)
    size = 0
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        size += path.stat().st_size if path.is_file() else 0
    return size
