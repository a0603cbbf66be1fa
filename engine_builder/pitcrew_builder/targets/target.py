"""What the builder asks of a target: a name for its tools, its graph, and its files.

A backend writes one rank at a time. Whatever it serializes, it also says which ONNX files ONNX
Runtime can run in its place, so that every engine is proven by the same validator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.graph.ir import Graph, Kinds
from pitcrew_builder.manifest import FileEntry, GraphInterface, Identity, LoraTarget, Placement
from pitcrew_builder.progress import Tracker


@dataclass(frozen=True, slots=True)
class Network:
    """One rank's graph and the tensors that its weights are made of."""

    graph: Graph
    tensors: Mapping[str, TensorInfo]
    placement: Placement | None = None
    """What the graph holds of a network that is split."""
    lora: tuple[LoraTarget, ...] = ()
    """What adapters may change while it is served."""
    kinds: Kinds = field(default_factory=dict)
    """What its weights are stored as, where that is narrower than the graph has them."""

    @property
    def kv_dtype(self) -> str:
        """What new keys and values are, and so the pools."""
        return next(port.type for port in self.graph.outputs if port.name.startswith("new_keys."))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A network, drawn for every rank."""

    ranks: tuple[Network, ...]
    whole: Network
    """The same, not split."""
    parameters: int
    """Of the whole network, each counted once."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where one rank is written, and for whom."""

    engine: Path
    """The engine directory, not yet visible to anybody."""

    scratch: Path
    """A directory on the same volume whose files vanish with the build; it exists."""

    cache: Path
    """What may speed up a later build. May not exist yet."""

    identity: Identity
    tracker: Tracker
    rank: int = 0

    @property
    def folder(self) -> str:
        """The rank's directory, relative to the engine's."""
        return f"rank{self.rank}"

    @property
    def metadata(self) -> dict[str, str]:
        """What every file that has room for it says of its engine."""
        return {"engine_id": self.identity.engine_id, "tag": self.identity.tag}


@dataclass(frozen=True, slots=True)
class Proof:
    """ONNX files of a rank's network, in float32, that ONNX Runtime runs on a CPU."""

    root: Path
    """What the interface's paths are relative to."""

    interface: GraphInterface


@dataclass(frozen=True, slots=True)
class Written:
    """One rank, written."""

    interface: GraphInterface
    files: tuple[FileEntry, ...]


class Backend(Protocol):
    """Turns networks into what one target executes."""

    @property
    def proven(self) -> str:
        """What the validator's runs prove, for the manifest."""
        ...

    @property
    def lead(self) -> float:
        """How clearly a canary's token must win, as a share of the largest logit: what the target
        may rightly compute otherwise than the proof.
        """
        ...

    def toolchain(self) -> dict[str, str]:
        """The versions that an engine's bytes depend on, read without importing anything heavy."""
        ...

    def optimize(self, graph: Graph) -> Graph:
        """The same network as the target computes it best, still in float32."""
        ...

    def write(self, network: Network, site: Site) -> Written:
        """Write a rank of an optimized network. Raises `BuildError`."""
        ...

    def proof(self, network: Network, written: Written, site: Site) -> Proof:
        """What is run in place of a rank that was written. Raises `BuildError`."""
        ...
