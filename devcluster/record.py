"""What a running cluster left on disk about itself, written before anything it names can be lost."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from devcluster.pki import write_private
from devcluster.process import Process


@dataclass(frozen=True)
class Record:
    """`holder` holds the namespaces open and is the parent of the node's first process.

    `groups` are the cgroups made for it, `started` is in seconds since the epoch, `kubernetes` and
    `addons` the artefacts it runs.
    """

    holder: Process
    groups: tuple[str, ...]
    port: int
    started: float
    kubernetes: str
    addons: str
    forward: Process | None = None

    def with_forward(self, forward: Process) -> "Record":
        """The same cluster with its way in."""
        return replace(self, forward=forward)

    def init(self) -> int | None:
        """The node's first process, by its number on this machine; None if the node is gone."""
        children = self.holder.children()
        return children[0] if children else None


def save(path: Path, record: Record) -> None:
    """Write the record, whole or not at all."""
    write_private(path, json.dumps(asdict(record), indent=1))


def load(path: Path) -> Record | None:
    """Read the record; None where there is none or it is damaged, which is the same to a reader."""
    try:
        fields = json.loads(path.read_text())
        forward = fields.pop("forward")
        fields["holder"] = Process(**fields["holder"])
        fields["groups"] = tuple(fields["groups"])
        return Record(**fields, forward=Process(**forward) if forward else None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
