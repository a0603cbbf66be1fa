"""The network as it was before it was made narrow: what calibration observes and the proof compares with.

It is as large as the engine in float32, and the same for every recipe. So the last one stays in the
builder's cache, and a build that asks for another quantization links to it instead of reading the
checkpoint again. Where cache and store are different volumes it is written each time.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pitcrew_builder import __version__, serialize
from pitcrew_builder.graph.ir import Value
from pitcrew_builder.graph.proto import Extent, data_name, to_proto
from pitcrew_builder.manifest import GraphInterface, Identity
from pitcrew_builder.store.durable import sync_tree
from pitcrew_builder.targets.onnx_files import DATA, GRAPH, write_onnx
from pitcrew_builder.targets.target import Network, Proof, Site

FOLDER = "unquantized"


def write_reference(network: Network, site: Site, check_unchanged: Callable[[], None]) -> Proof:
    """Put the network into `site.scratch`, whence it vanishes with the build. Raises as a write.

    What others shall find is kept under the digests of the checkpoint, and so not if that changed.
    """
    extents = serialize.place(network.graph)
    kept = site.cache / FOLDER / _key(network, extents, site.identity)
    folder = site.scratch / FOLDER
    names = {GRAPH, *(data_name(DATA, extent.file) for extent in extents.values())}
    try:
        _link(names, kept, folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        write_onnx(site.scratch, FOLDER, network, site.metadata, site.tracker, passing=True)
        check_unchanged()
        _keep(names, folder, kept)
    return Proof(site.scratch, GraphInterface(graph=f"{FOLDER}/{GRAPH}"))


def _key(network: Network, extents: Mapping[Value, Extent], identity: Identity) -> str:
    """A digest of all that decides the files' bytes, but for the engine's name in them."""
    graph = network.graph
    proto = to_proto(graph, extents, DATA, {})
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True))
    for literal in graph.literals:
        digest.update(literal.array.tobytes())
    made_of = [__version__, graph.weights, identity.inputs, identity.adapters]
    digest.update(repr(made_of).encode())
    return digest.hexdigest()


def _keep(names: Iterable[str], folder: Path, kept: Path) -> None:
    """Make a finished folder the only one that is kept, if the volume lets us."""
    fresh = kept.with_name(f".{secrets.token_hex(8)}")
    with suppress(OSError):
        shutil.rmtree(kept.parent, ignore_errors=True)
        kept.parent.mkdir(parents=True)
        _link(names, folder, fresh)
        sync_tree(fresh)
        fresh.rename(kept)


def _link(names: Iterable[str], source: Path, target: Path) -> None:
    """Give files second names in a folder of their own. Raises `OSError`, between volumes too."""
    target.mkdir()
    for name in names:
        os.link(source / name, target / name)
