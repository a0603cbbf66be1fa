"""Puts an engine together from a verified directory: network, KV pool, scheduler."""

import logging
from dataclasses import dataclass

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Executor
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.drafting import Speculation, check_draft, short_length
from pitcrew_runtime.engine_directory import EngineDirectory
from pitcrew_runtime.errors import InvalidOption
from pitcrew_runtime.execution.executor import NetworkExecutor
from pitcrew_runtime.execution.gpu.shapes import bounds_of
from pitcrew_runtime.execution.resources import usable_cpus
from pitcrew_runtime.execution.scoring import TOGETHER
from pitcrew_runtime.networks import Means, load_weights
from pitcrew_runtime.ranks.pods import Pods
from pitcrew_runtime.sizing import Room, pool_pages, within_pool
from pitcrew_runtime.speculation.draft import DraftProposer
from pitcrew_runtime.speculation.executor import SpeculativeExecutor
from pitcrew_runtime.speculation.ngram import NgramProposer

logger = logging.getLogger(__name__)

PROMPT_TOKENS = 512
"""Of prompts in a step, where nobody says how many tokens it may have."""


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
    means = Means(threads, adapter_slots(manifest, tuning), tuning.pods)
    weights = load_weights(directory, limits, means)
    drafting = load_weights(draft, limits, Means(threads)) if draft is not None else None
    # Pages of a draft engine lie beside those of the engine, where the leader is.
    beside = draft.manifest.kv_bytes_per_token if draft is not None else 0
    bytes_per_token = manifest.kv_bytes_per_token + beside
    first, *others = weights.rooms()
    # Where nobody says how large the pool is, contexts have the other half.
    share = weights.share if tuning.kv_memory is None else 1
    rooms = [Room(first.bytes_per_token + beside, first.free // share), *others]
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


def limits_for(manifest: Manifest, tuning: Tuning) -> Limits:
    """The scheduler's limits; raises `InvalidOption` where the engine allows less."""
    shapes, most = manifest.identity.shapes, bounds_of(manifest)
    batch = tuning.max_batch_size or shapes.max_batch_size
    if batch > shapes.max_batch_size:
        raise InvalidOption(
            f"--max-batch-size {batch}: the engine was built for {shapes.max_batch_size}; lower it "
            "or build with a larger shapes.maxBatchSize"
        )
    if tuning.max_step_tokens is not None and tuning.max_step_tokens <= batch:
        raise InvalidOption(
            f"--max-step-tokens {tuning.max_step_tokens}: a full batch takes {batch} of them, and "
            f"prompts need some too; give at least {batch + 1}, or a smaller --max-batch-size"
        )
    lookahead = tuning.speculation.tokens if tuning.speculation else 0
    wanted = most.wanted if most else TOGETHER
    if lookahead >= wanted:
        raise InvalidOption(
            f"--speculative-tokens {lookahead}: {wanted - 1} guesses of a sequence can be checked in "
            f"one step; lower it to {wanted - 1}"
        )
    try:
        return Limits(
            max_running=batch,
            max_step_tokens=tuning.max_step_tokens or PROMPT_TOKENS + batch,
            longest_row=most.new if most else None,
            max_waiting=tuning.max_waiting,
            max_sequence_length=shapes.max_sequence_length,
            page_size=shapes.kv_page_size,
            policy=tuning.policy,
            prefix_cache=tuning.prefix_cache,
            short_length=short_length(manifest),
            lookahead=lookahead,
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


def _short_first(manifest: Manifest) -> int:
    short = manifest.model.short_texts
    return short.first_position if short else 0
