"""Before a server says that it is ready: every kernel has run, and the engine says what it should.

A prefill of batch 1, then decoding at every batch bucket, as real requests through the scheduler;
last the canary: the greedy continuation that the builder recorded in the manifest.
"""

import logging
from collections.abc import Callable, Sequence

from pitcrew_builder.manifest import Canary
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.request import Finish, Request, Update
from pitcrew_runtime.errors import CanaryMismatch, InvalidRequest, NotEnoughMemory

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


def warm_up(engine: Engine, canary: Canary, clock: Clock) -> None:
    """Run the buckets and the canary; raises `CanaryMismatch`."""
    started = clock()
    for bucket in buckets(engine):
        try:
            decode_together(engine, bucket, canary.prompt[:1] or (0,), clock)
        except InvalidRequest:
            break  # sequences so short that hardly ever so many of them are decoded together
    check_canary(engine, canary, clock)
    logger.info("Warm after %.2f s", clock() - started)


def buckets(engine: Engine) -> list[int]:
    """1, 2, 4, … and the largest batch that the engine may run."""
    largest = engine.limits.max_running
    powers = [1 << exponent for exponent in range(largest.bit_length())]
    return sorted({*powers, largest})


def decode_together(engine: Engine, count: int, prompt: Sequence[int], clock: Clock) -> None:
    """Run a step in which so many sequences of that prompt decode, if there are pages for them.

    They come in waves where fewer may wait, and earlier ones go on until the last has come. Raises
    `InvalidRequest` where sequences may not be that long.
    """
    firsts = range(0, count, engine.limits.max_waiting)
    for steps, first in zip(range(len(firsts), 0, -1), firsts, strict=True):
        wave = range(first, min(first + engine.limits.max_waiting, count))
        while engine.gauges().waiting:  # for pages
            _step(engine, clock)
        engine.submit(*(Request(-1 - one, tuple(prompt), 1 + steps, clock()) for one in wave))
        _step(engine, clock)
    while not engine.idle:
        _step(engine, clock)


def check_canary(engine: Engine, canary: Canary, clock: Clock) -> None:
    """Raises `CanaryMismatch` unless the engine repeats what its builder saw."""
    if not canary.continuation:
        return
    try:
        (found,) = generate(engine, [canary.prompt], len(canary.continuation), clock)
    except InvalidRequest as error:
        tokens = len(canary.prompt) + len(canary.continuation)
        raise NotEnoughMemory(
            f"the canary has {tokens} tokens, and the KV pool has room for "
            f"{engine.limits.max_sequence_length}; raise kvMemory (--kv-memory) or the memory limit"
        ) from error
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
        for update in _step(engine, clock):
            if update.sampled is not None:
                tokens[update.request_id].append(update.sampled.token)
    return list(tokens.values())


def _step(engine: Engine, clock: Clock) -> Sequence[Update]:
    updates = engine.step(clock()).updates
    if any(update.finish is Finish.ERROR for update in updates):
        raise CanaryMismatch("the engine failed in its warm-up; see the log above")
    return updates
