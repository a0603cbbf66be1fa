"""Loads the weights of an engine, for the target that it was built for, and makes its network."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pitcrew_builder.manifest import Manifest
from pitcrew_builder.spec import Target
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.engine_directory import EngineDirectory
from pitcrew_runtime.errors import EngineIncompatible, InvalidOption
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.contiguous_network import ContiguousNetwork
from pitcrew_runtime.execution.gpu.shapes import bounds_of
from pitcrew_runtime.execution.kv_pool import STORED_AS, PoolShape
from pitcrew_runtime.execution.network import Network
from pitcrew_runtime.execution.onnx_network import OnnxNetwork, Segment
from pitcrew_runtime.execution.program import open_session
from pitcrew_runtime.execution.resources import free_memory
from pitcrew_runtime.execution.scoring import TOGETHER
from pitcrew_runtime.ranks.group import RankGroup
from pitcrew_runtime.ranks.launch import GroupShape
from pitcrew_runtime.ranks.pod import meet
from pitcrew_runtime.ranks.pods import Pods
from pitcrew_runtime.sizing import Room, context_bytes, rooms_of

logger = logging.getLogger(__name__)

SMALL_ENGINE = 32 << 20
"""Bytes up to which one thread decodes a few rows: to hand on parts of so short a step takes longer
than the others save, and leaves nothing for HTTP."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a machine computes an engine with."""

    threads: int
    adapter_slots: int = 0
    pods: Pods | None = None
    """Where the ranks are, if not all in this pod."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights in memory: what they leave of it decides how many pages there can be."""

    network: Callable[[int], Network]
    """Makes a network with so many KV pages."""
    rooms: Callable[[], Sequence[Room]]
    """By pod, this one first."""
    share: int = 1
    """Of so many parts of the memory one is for pages: contexts may have the other."""


def load_weights(directory: EngineDirectory, limits: Limits, means: Means) -> Weights:
    """Raises a `StartupError`."""
    manifest = directory.manifest
    _check_kv_dtype(manifest)
    if manifest.world_size > 1:
        return _ranks(directory, limits, means)
    if manifest.identity.target is Target.TENSORRT:
        return _plan(directory, limits)
    return _session(directory, limits, means)


def _session(directory: EngineDirectory, limits: Limits, means: Means) -> Weights:
    """On the CPUs of this process."""
    manifest, threads = directory.manifest, means.threads
    # Guesses make runs of several tokens each, which contexts are not kept for.
    contiguous = None if limits.lookahead else manifest.ranks[0].contiguous
    graph = directory.listed(contiguous or manifest.ranks[0].whole)
    session = decoding = open_session(graph, threads)
    fewer = decoding_threads(manifest, threads)
    if contiguous and fewer != threads:
        decoding = open_session(graph, fewer)
    adapters = _adapter_pool(manifest, means.adapter_slots)

    def network(pages: int) -> Network:
        shape = _pool_shape(manifest, pages)
        if not contiguous:
            return OnnxNetwork([Segment(session)], shape, adapters)
        room = context_bytes(shape.nbytes, free_memory())
        return ContiguousNetwork(session, decoding, shape, room, adapters)

    def rooms() -> list[Room]:
        return [Room(manifest.kv_bytes_per_token, free_memory())]

    return Weights(network, rooms, share=2 if contiguous else 1)


def _plan(directory: EngineDirectory, limits: Limits) -> Weights:
    """On the GPU of this process; nobody else loads what speaks to it."""
    from pitcrew_runtime.execution.gpu.opening import open_plan

    manifest = directory.manifest
    path = directory.listed(manifest.ranks[0].whole)
    opened = open_plan(path, manifest, limits, _pool_shape(manifest, 0))

    def network(pages: int) -> Network:
        return opened.network(_pool_shape(manifest, pages))

    return Weights(network, lambda: [Room(manifest.kv_bytes_per_token, opened.free_memory)])


def _ranks(directory: EngineDirectory, limits: Limits, means: Means) -> Weights:
    """In processes of their own, here and in other pods."""
    manifest, pods = directory.manifest, means.pods
    here = pods.ranks_each if pods is not None else manifest.world_size
    plans = manifest.identity.target is Target.TENSORRT
    if plans and pods is not None and pods.tls is not None:
        raise InvalidOption(
            "--rank-tls-dir: ranks with a GPU exchange values by NCCL, which does not encrypt them: "
            "leave it out where the network between the pods is trusted, or keep all ranks in one pod"
        )
    shape = GroupShape(
        engine=directory.root,
        ranks=manifest.ranks,
        page_size=manifest.identity.shapes.kv_page_size,
        adapter_slots=means.adapter_slots,
        threads=max(1, means.threads // here),
        tls=pods.tls if pods is not None else None,
    )
    meeting = meet(manifest, pods, means.adapter_slots) if pods is not None else None
    bounds = bounds_of(manifest)
    group = RankGroup(shape, limits, meeting, bounds.wanted if bounds else TOGETHER)
    each = "a GPU each" if plans else f"{shape.threads} threads"
    logger.info("%d ranks, %d of them here with %s", len(shape.ranks), here, each)

    def network(pages: int) -> Network:
        group.open(pages)
        return group

    def rooms() -> list[Room]:
        # A GPU belongs to one rank, the memory of a pod to all that are in it.
        return rooms_of(manifest, group.free, 1 if plans else here)

    return Weights(network, rooms)


def decoding_threads(manifest: Manifest, threads: int) -> int:
    """How many of the threads decode a few rows. The size alone decides: sums depend on it, and so all replicas
    agree.
    """
    return 1 if manifest.size_bytes <= SMALL_ENGINE else threads


def _adapter_pool(manifest: Manifest, slots: int) -> AdapterPool | None:
    lora = manifest.identity.lora
    if lora is None:
        return None
    pool = AdapterPool(manifest.ranks[0].lora, slots, lora.max_rank)
    logger.info("%d adapter slots of rank %d (%d MiB)", slots, lora.max_rank, pool.nbytes >> 20)
    return pool


def _check_kv_dtype(manifest: Manifest) -> None:
    kv_dtype = manifest.ranks[0].kv_dtype
    if kv_dtype not in STORED_AS:
        raise EngineIncompatible(
            f"engine {manifest.tag} has a KV cache of {kv_dtype}; this runtime serves "
            f"{', '.join(STORED_AS)}: use builder and runtime images of one release"
        )


def _pool_shape(manifest: Manifest, pages: int) -> PoolShape:
    model = manifest.model
    return PoolShape(
        layers=model.layers,
        pages=pages,
        page_size=manifest.identity.shapes.kv_page_size,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        kv_dtype=manifest.ranks[0].kv_dtype,
    )
