"""An executor without a model, for tests and for measuring the scheduler alone.

`EchoExecutor` has a language of its own: the next token is a pure function of the sequence's
tokens and its adapter. It keeps them in pages as a real executor keeps keys and values, and reads them back
through the block table, so a page that is mixed up, lost or shared by mistake shows as a wrong
token; `continuation` says what the right ones are.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from pitcrew_runtime.core.adapters import NO_ADAPTER
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.executor import Chosen, Work
from pitcrew_runtime.core.request import Sampled

VOCABULARY = 256
LONG = 1 << 16
"""What is added to the tokens of long texts, where the engine computes those otherwise: no page of
them may be taken for one of a short text.
"""


def next_token(tokens: Sequence[int], adapter: str = "") -> int:
    """The token that follows under the adapter of that identity, in [0, VOCABULARY)."""
    said = b"".join(token.to_bytes(4, "little") for token in tokens)
    return zlib.crc32(said, zlib.crc32(adapter.encode())) % VOCABULARY


def continuation(
    prompt: Sequence[int], count: int, adapter: str = "", short_length: int = 0
) -> list[int]:
    """What a request alone would be given."""
    tokens = list(prompt)
    for _ in range(count):
        long = 0 < short_length < len(tokens)
        tokens.append(next_token(marked(tokens, long=long), adapter))
    return tokens[len(prompt) :]


def marked(tokens: Sequence[int], *, long: bool) -> list[int]:
    """As they are kept of a long text, or of another."""
    return [token + LONG * long for token in tokens]


def score_of(before: Sequence[int], token: int) -> Sampled:
    """A token of a prompt, given those before it: its "log probability" tells which these were."""
    return Sampled(token, -1.0 - next_token(before))


@dataclass(frozen=True, slots=True, weakref_slot=True)
class NamedAdapter:
    """An adapter without weights."""

    identity: str


class EchoExecutor:
    """Stores tokens in pages and answers with `next_token` of what it reads back."""

    def __init__(self, pages: int, page_size: int) -> None:
        self._pool: list[list[int]] = [[-1] * page_size for _ in range(pages)]
        self._page_size = page_size
        self._slots = {NO_ADAPTER: ""}
        self.work = Work()

    @property
    def pages(self) -> int:
        """Pages in the pool."""
        return len(self._pool)

    def close(self) -> None:
        """Nothing to let go of."""

    def execute(self, batch: StepBatch) -> list[Chosen]:
        """Write all rows, then read all back: what one row writes over another is seen."""
        self._slots |= {slot: adapter.identity for slot, adapter in batch.adapters.items()}
        for source, target in batch.copies:
            self._pool[target] = self._pool[source].copy()
        for row in batch.rows:
            for position, token in enumerate(marked(row.tokens, long=row.long), row.start):
                self._pool[row.pages[position // self._page_size]][position % self._page_size] = (
                    token
                )
        return [
            [*self._scores(row), *(self._answer(row) if row.sampling else ())] for row in batch.rows
        ]

    def _scores(self, row: Row) -> Chosen:
        """Tokens of the prompt, as `score_of` scores them."""
        following = range(row.start + 1, row.start + 1 + row.scores)
        return [score_of(self._read(row, place), row.history[place]) for place in following]

    def _answer(self, row: Row) -> Chosen:
        """The next token, and one more after each guess that is right."""
        adapter = self._slots[row.slot]
        tokens = self._read(row, row.end)
        chosen = []
        for end in range(row.end - row.drafts, row.end + 1):
            token = next_token(tokens[:end], adapter)
            chosen.append(Sampled(token, logprob=-1.0, top=((token, -1.0),)))
            if tokens[end : end + 1] != marked([token], long=row.long):
                break
        return chosen

    def _read(self, row: Row, count: int) -> list[int]:
        """The first tokens of a sequence, from its pages."""
        size = self._page_size
        return [self._pool[row.pages[p // size]][p % size] for p in range(count)]


class NullExecutor:
    """Computes nothing and always chooses the same token."""

    def __init__(self, pages: int) -> None:
        self._chosen = (Sampled(0),)
        self._pages = pages
        self.work = Work()

    @property
    def pages(self) -> int:
        """Pages in the pool."""
        return self._pages

    def close(self) -> None:
        """Nothing to let go of."""

    def execute(self, batch: StepBatch) -> list[Chosen]:
        """One token for each row that asks for one."""
        chosen = self._chosen
        return [chosen if row.sampling is not None else () for row in batch.rows]
