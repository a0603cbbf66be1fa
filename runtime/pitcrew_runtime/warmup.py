"""Before a server says that it is ready: every kernel has run, and the engine says what it should.

A prefill of batch 1, then decoding at every batch bucket, as real requests through the scheduler;
last the canary: the greedy continuation that the builder recorded in the manifest.
"""

import logging
from collections.abc import Callable, Sequence

from pitcrew_builder.manifest import Canary
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.request import Finish, Request
from pitcrew_runtime.errors import CanaryMismatch, InvalidRequest, NotEnoughMemory, QueueFull

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


def warm_up(engine: Engine, canary: Canary, clock: Clock) -> None:
    """Run the buckets and the canary; raises `CanaryMismatch`."""
    started = clock()
    prompt = canary.prompt[:1] or (0,)
    for bucket in buckets(engine):
        try:
            generate(engine, [prompt] * bucket, 2, clock)
        except (InvalidRequest, QueueFull):
            break  # a pool or queue too small for this bucket never sees it in service either
    check_canary(engine, canary, clock)
    logger.info("Warm after %.2f s", clock() - started)


def buckets(engine: Engine) -> list[int]:
    """1, 2, 4, … and the largest batch that the engine may run."""
    largest = engine.limits.max_running
    powers = [1 << exponent for exponent in range(largest.bit_length())]
    return sorted({*powers, largest})


def check_canary(engine: Engine, canary: Canary, clock: Clock) -> None:
    """Raises `CanaryMismatch` unless the engine repeats what its builder saw."""
    if not canary.continuation:
        return
    try:
        (found,) = generate(engine, [canary.prompt], len(canary.continuation), clock)
    except InvalidRequest as error:
        raise NotEnoughMemory(f"the canary does not fit into the KV pool: {error}") from error
    if tuple(found) != canary.continuation:
        raise CanaryMismatch(
            f"greedy tokens {found} differ from the manifest's {list(canary.continuation)}: this "
            "machine or its libraries do not compute what the builder validated; build the engine "
            "with this release of Pitcrew"
        )


def generate(
    engine: Engine, prompts: Sequence[Sequence[int]], count: int, clock: Clock
) -> list[list[int]]:
    """Greedy tokens for each prompt, stepping the engine here; nothing else may use it."""
    tokens: dict[int, list[int]] = {-1 - index: [] for index in range(len(prompts))}
    for request_id, prompt in zip(tokens, prompts, strict=True):
        engine.submit(Request(request_id, tuple(prompt), count, clock()))
    while not engine.idle:
        for update in engine.step(clock()).updates:
            if update.sampled is not None:
                tokens[update.request_id].append(update.sampled.token)
            if update.finish is Finish.ERROR:
                raise CanaryMismatch("the engine failed in its warm-up; see the log above")
    return list(tokens.values())
