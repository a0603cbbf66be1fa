"""Puts an engine together from a verified directory: session, KV pool, scheduler."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.manifest import Manifest, size_text
from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Executor
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.drafting import Speculation, check_draft, short_length
from pitcrew_runtime.engine_directory import EngineDirectory
from pitcrew_runtime.errors import (
    EngineCorrupt,
    EngineIncompatible,
    InvalidOption,
    NotEnoughMemory,
)
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.contiguous_network import ContiguousNetwork
from pitcrew_runtime.execution.executor import NetworkExecutor
from pitcrew_runtime.execution.kv_pool import STORED_AS, PoolShape
from pitcrew_runtime.execution.network import Network
from pitcrew_runtime.execution.onnx_network import OnnxNetwork, Segment
from pitcrew_runtime.execution.program import open_session
from pitcrew_runtime.execution.resources import free_memory, usable_cpus
from pitcrew_runtime.ranks.group import RankGroup
from pitcrew_runtime.ranks.launch import GroupShape
from pitcrew_runtime.ranks.pod import meet
from pitcrew_runtime.ranks.pods import Pods
from pitcrew_runtime.speculation.draft import DraftProposer
from pitcrew_runtime.speculation.executor import SpeculativeExecutor
from pitcrew_runtime.speculation.ngram import NgramProposer

logger = logging.getLogger(__name__)

FREE_MEMORY_FRACTION = 0.8
PROMPT_TOKENS = 512
"""Of prompts in a step, where nobody says how many tokens it may have."""
SMALL_CONTEXTS = 32 << 20
"""Bytes that contexts may have beside the smallest pool: they are of one length, pages are not."""

SMALL_ENGINE = 32 << 20
"""Bytes up to which one thread decodes a few rows: to hand on parts of so short a step takes longer
than the others save, and leaves nothing for HTTP."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the operator of a server may choose; None takes the engine's or the machine's."""

    max_batch_size: int | None = None
    max_step_tokens: int | None = None
    """None: `PROMPT_TOKENS` beside a full batch."""
    max_waiting: int = 256
    policy: Policy = Policy.SHORTEST_FIRST
    kv_memory: int | None = None
    """Bytes for the KV pool."""
    threads: int | None = None
    max_loras: int | None = None
    """Adapters that one step may mix."""
    prefix_cache: bool = True
    speculation: Speculation | None = None
    pods: Pods | None = None
    """Where the ranks are, if not all in this pod."""


def assemble(
    directory: EngineDirectory, tuning: Tuning, draft: EngineDirectory | None = None
) -> Engine:
    """An engine ready to step; `draft` is the one that guesses for it. Raises a `StartupError`."""
    limits = limits_for(directory.manifest, tuning)
    executor = load_executor(directory, limits, tuning, draft)
    scheduler = Scheduler(
        within_pool(limits, executor.pages),
        PageAllocator(executor.pages),
        AdapterSlots(adapter_slots(directory.manifest, tuning)),
        engine_id=directory.manifest.engine_id,
    )
    return Engine(scheduler, executor)


def load_executor(
    directory: EngineDirectory,
    limits: Limits,
    tuning: Tuning,
    draft: EngineDirectory | None = None,
) -> Executor:
    """The weights in memory, and KV pools in what they leave of it. Raises a `StartupError`."""
    manifest = directory.manifest
    if draft is not None:
        check_draft(directory, draft, limits)
    threads = tuning.threads or usable_cpus()
    # Guesses make runs of several tokens each, which contexts are not kept for.
    contiguous = not limits.lookahead and _has_contiguous_form(manifest)
    slots = adapter_slots(manifest, tuning)
    weights = _loaded(directory, threads, slots, tuning.pods, contiguous=contiguous)
    drafting = _loaded(draft, threads, 0) if draft is not None else None
    # Pages of a draft engine lie beside those of the engine, where the leader is.
    beside = draft.manifest.kv_bytes_per_token if draft is not None else 0
    bytes_per_token = manifest.kv_bytes_per_token + beside
    first, *others = weights.rooms()
    # Where nobody says how large the pool is, contexts have the other half.
    share = 2 if contiguous and tuning.kv_memory is None else 1
    rooms = [Room(first.bytes_per_token + beside, free_memory() // share), *others]
    pages = min(
        pool_pages(room.bytes_per_token, limits, tuning.kv_memory, room.free) for room in rooms
    )
    executor: Executor = NetworkExecutor(weights.network(pages), _short_first(manifest))
    if drafting is not None and draft is not None:
        drafter = NetworkExecutor(drafting.network(pages), _short_first(draft.manifest))
        executor = SpeculativeExecutor(executor, DraftProposer(drafter))
    elif tuning.speculation is not None:
        executor = SpeculativeExecutor(executor, NgramProposer(tuning.speculation.ngram))
    logger.info(
        "Engine %s: %d KV pages of %d tokens (%d MiB of %s), batch %d, %d tokens a step",
        manifest.tag,
        pages,
        limits.page_size,
        pages * limits.page_size * bytes_per_token >> 20,
        manifest.ranks[0].kv_dtype,
        limits.max_running,
        limits.max_step_tokens,
    )
    return executor


def decoding_threads(manifest: Manifest, threads: int) -> int:
    """How many of the threads decode a few rows. The size alone decides: sums depend on it, and so all replicas
    agree.
    """
    return 1 if manifest.size_bytes <= SMALL_ENGINE else threads


def limits_for(manifest: Manifest, tuning: Tuning) -> Limits:
    """The scheduler's limits; raises `InvalidOption` where the engine allows less."""
    shapes = manifest.identity.shapes
    batch = tuning.max_batch_size or shapes.max_batch_size
    if batch > shapes.max_batch_size:
        raise InvalidOption(
            f"--max-batch-size {batch}: the engine was built for {shapes.max_batch_size}; lower it "
            "or build with a larger shapes.maxBatchSize"
        )
    try:
        return Limits(
            max_running=batch,
            max_step_tokens=tuning.max_step_tokens or PROMPT_TOKENS + batch,
            max_waiting=tuning.max_waiting,
            max_sequence_length=shapes.max_sequence_length,
            page_size=shapes.kv_page_size,
            policy=tuning.policy,
            prefix_cache=tuning.prefix_cache,
            short_length=short_length(manifest),
            lookahead=tuning.speculation.tokens if tuning.speculation else 0,
        )
    except ValueError as error:
        raise InvalidOption(str(error)) from error


def adapter_slots(manifest: Manifest, tuning: Tuning) -> int:
    """Slots for adapters; raises `InvalidOption` where the engine has fewer."""
    lora = manifest.identity.lora
    room = lora.max_adapters if lora else 0
    if tuning.max_loras is not None and tuning.max_loras > room:
        raise InvalidOption(
            f"--max-loras {tuning.max_loras}: the engine was built for {room}; lower it or build "
            "with a larger lora.maxAdapters"
        )
    return room if tuning.max_loras is None else tuning.max_loras


def pool_pages(bytes_per_token: int, limits: Limits, wanted: int | None, free: int) -> int:
    """Pages of the KV pool, whose tokens take so many bytes each.

    `wanted` bytes where given, else 0.8 of the `free` bytes; never more than a full batch of
    longest sequences can use. Raises `NotEnoughMemory` where that is not one page, or where
    `wanted` is more than is free.
    """
    page_bytes = limits.page_size * bytes_per_token
    useful = limits.max_running * limits.pages_for(limits.max_sequence_length)
    budget = int(free * FREE_MEMORY_FRACTION) if wanted is None else wanted
    if wanted is not None and min(wanted, useful * page_bytes) > free:
        raise NotEnoughMemory(
            f"--kv-memory {wanted}: only {free} bytes are free; lower it or raise the memory limit"
        )
    pages = min(useful, budget // page_bytes)
    if pages < 1:
        raise NotEnoughMemory(
            f"a KV page takes {size_text(page_bytes)}, but the pool may have {size_text(budget)}; "
            "raise kvMemory (--kv-memory) or the memory limit"
        )
    return pages


def context_bytes(pool: int, free: int) -> int:
    """Bytes for contexts beside a pool of so many: as many again, or a few where that is little, as
    long as both are 0.8 of what is free.
    """
    return max(0, min(max(pool, SMALL_CONTEXTS), int(free * FREE_MEMORY_FRACTION) - pool))


def within_pool(limits: Limits, pages: int) -> Limits:
    """A sequence cannot be longer than the pool: say so to clients instead of starving them."""
    longest = min(limits.max_sequence_length, pages * limits.page_size)
    if longest < limits.max_sequence_length:
        logger.warning(
            "The KV pool holds %d tokens, fewer than the engine's longest sequence (%d): longer "
            "requests are refused; raise --kv-memory to serve them",
            longest,
            limits.max_sequence_length,
        )
    return replace(limits, max_sequence_length=longest)


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for KV pages in one pod."""

    bytes_per_token: int
    """Of the ranks in the pod."""
    free: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class _Weights:
    """The weights in memory: what they leave of it decides how many pages there can be."""

    network: Callable[[int], Network]
    """Makes a network with so many KV pages."""
    rooms: Callable[[], Sequence[Room]]
    """By pod, this one first."""


def _loaded(
    directory: EngineDirectory,
    threads: int,
    slots: int,
    pods: Pods | None = None,
    *,
    contiguous: bool = False,
) -> _Weights:
    """With `contiguous`, by the form of the graph that reads contexts."""
    manifest = directory.manifest
    _check_kv_dtype(manifest)
    if manifest.world_size > 1:
        return _loaded_ranks(directory, threads, slots, pods)
    name = (manifest.ranks[0].contiguous if contiguous else None) or manifest.ranks[0].graph
    graph = directory.file(name)
    if graph is None:
        raise EngineCorrupt(f"the manifest lists no file {name}; build the engine again")
    session = decoding = open_session(graph, threads)
    fewer = decoding_threads(manifest, threads)
    if contiguous and fewer != threads:
        decoding = open_session(graph, fewer)
    adapters = _adapter_pool(manifest, slots)

    def network(pages: int) -> Network:
        shape = _pool_shape(manifest, pages)
        if not contiguous:
            return OnnxNetwork([Segment(session)], shape, adapters)
        room = context_bytes(shape.nbytes, free_memory())
        return ContiguousNetwork(session, decoding, shape, room, adapters)

    return _Weights(network, lambda: [Room(manifest.kv_bytes_per_token, free_memory())])


def _loaded_ranks(
    directory: EngineDirectory, threads: int, slots: int, pods: Pods | None
) -> _Weights:
    manifest = directory.manifest
    here = pods.ranks_each if pods is not None else manifest.world_size
    shape = GroupShape(
        engine=directory.root,
        ranks=manifest.ranks,
        page_size=manifest.identity.shapes.kv_page_size,
        adapter_slots=slots,
        threads=max(1, threads // here),
        tls=pods.tls if pods is not None else None,
    )
    group = RankGroup(shape, meet(manifest, pods, slots) if pods is not None else None)
    logger.info("%d ranks, %d of them here with %d threads", len(shape.ranks), here, shape.threads)

    def network(pages: int) -> Network:
        group.open(pages)
        return group

    return _Weights(network, lambda: rooms_of(manifest, group.free, here))


def rooms_of(manifest: Manifest, free: Sequence[int], ranks_each: int) -> list[Room]:
    """The pods of a split engine, where each holds so many ranks; `free` bytes by rank."""
    places = [rank.placement for rank in manifest.ranks]
    heads = [place.layers * place.kv_heads if place else 0 for place in places]
    return [
        Room(
            manifest.kv_bytes_per_token * sum(heads[first : first + ranks_each]) // sum(heads),
            min(free[first : first + ranks_each]),
        )
        for first in range(0, len(heads), ranks_each)
    ]


def _short_first(manifest: Manifest) -> int:
    short = manifest.model.short_texts
    return short.first_position if short else 0


def _has_contiguous_form(manifest: Manifest) -> bool:
    return manifest.world_size == 1 and manifest.ranks[0].contiguous is not None


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
