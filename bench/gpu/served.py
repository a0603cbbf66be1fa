"""Engines behind the runtime's own network and scheduler, on the GPU of this machine, for scripts of facts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.assembly import Tuning, limits_for
from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import GREEDY, Request, Sampled, Sampling
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.drafting import short_length
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.execution.executor import NetworkExecutor
from pitcrew_runtime.execution.packing import pack
from pitcrew_runtime.networks import Means, load_weights
from pitcrew_runtime.speculation.executor import SpeculativeExecutor
from pitcrew_runtime.speculation.ngram import NgramProposer

Logits = NDArray[np.float32]


@dataclass
class Text:
    """One sequence: its pages, and what lies in them."""

    table: list[int]
    tokens: list[int] = field(default_factory=list)


class Served:
    """An engine's network, opened once, with `pages` of rubbish; engines over it as they are asked for."""

    def __init__(self, path: Path, pages: int, lookahead: int = 4) -> None:
        directory = open_engine(path, None)
        self.manifest = directory.manifest
        self.limits = limits_for(self.manifest, Tuning())
        # The room that runs of guesses need.
        room = Limits(
            self.limits.max_running,
            self.limits.max_step_tokens,
            1,
            self.limits.max_sequence_length,
            self.limits.page_size,
            lookahead=lookahead,
        )
        self.network = load_weights(directory, room, Means(1)).network(pages)
        short = self.manifest.model.short_texts
        self.first = short.first_position if short else 0
        self.chunk = self.network.wanted
        rng = np.random.default_rng(0)
        for page in range(pages):
            noise = rng.integers(0, self.manifest.model.vocab_size, self.limits.page_size).tolist()
            for at in range(0, len(noise), self.chunk):
                self.feed([Text([page], noise[:at])], [noise[at : at + self.chunk]])

    def feed(
        self, texts: Sequence[Text], tokens: Sequence[Sequence[int]], *, long: bool = False
    ) -> list[Logits]:
        """Append tokens, `chunk` at most, to each text: the logits [len, vocab] after each of them."""
        rows = [
            Row(
                index,
                list(new),
                len(text.tokens),
                text.table,
                GREEDY,
                long=long,
                drafts=len(new) - 1,
            )
            for index, (text, new) in enumerate(zip(texts, tokens, strict=True))
        ]
        logits = self.network.run(pack(rows, self.limits.page_size, self.first))
        for text, new in zip(texts, tokens, strict=True):
            text.tokens += new
        return [each[: len(new)].copy() for each, new in zip(logits, tokens, strict=True)]

    def engine(
        self, pages: int, *, step_tokens: int = 512, batch: int = 0, lookahead: int = 0
    ) -> Engine:
        """New books over the first pages of the pool."""
        limits = Limits(
            batch or self.limits.max_running,
            step_tokens,
            256,
            min(self.limits.max_sequence_length, pages * self.limits.page_size),
            self.limits.page_size,
            short_length=short_length(self.manifest),
            longest_row=self.limits.longest_row,
            lookahead=lookahead,
        )
        executor = NetworkExecutor(self.network, self.first)
        guessing = SpeculativeExecutor(executor, NgramProposer(shortest=1))
        return Engine(Scheduler(limits, PageAllocator(pages)), guessing if lookahead else executor)


def generated(
    engine: Engine, prompts: Sequence[Sequence[int]], count: int, sampling: Sampling = GREEDY
) -> list[list[Sampled]]:
    """What follows each prompt, all asked for at once."""
    found: dict[int, list[Sampled]] = {index: [] for index in range(len(prompts))}
    for index, prompt in enumerate(prompts):
        engine.submit(Request(index, tuple(prompt), count, 0.0, sampling))
    while not engine.idle:
        for update in engine.step(0.0).updates:
            if update.sampled is not None:
                found[update.request_id].append(update.sampled)
    return list(found.values())


def tokens_of(sampled: Sequence[Sampled]) -> list[int]:
    """Alone."""
    return [one.token for one in sampled]


def differs_at(found: Sequence[int], wanted: Sequence[int]) -> int | None:
    """The first place."""
    pairs = enumerate(zip(found, wanted, strict=True))
    return next((place for place, (one, other) in pairs if one != other), None)


def lead(sampled: Sampled) -> float:
    """Of the likeliest token's logit over the next one's."""
    return sampled.top[0][1] - sampled.top[1][1]
