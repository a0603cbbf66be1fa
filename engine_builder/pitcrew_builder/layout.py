"""Who holds what when a network is split over ranks: arithmetic alone, no graph and no files.

Three ways of splitting combine (Shoeybi et al. 2019, "Megatron-LM"; Lepikhin et al. 2020, "GShard"):

- *pipeline*: consecutive ranges of layers; a stage hands its rows to the next one.
- *expert*: the experts of a mixture are dealt out; everything else is repeated.
- *tensor*: heads, feed-forward width and vocabulary are cut, within experts too.

Ranks are numbered with tensor fastest and pipeline slowest, so the ranks that talk most are
neighbours. Every rank of a stage sees all rows, hence partial sums over tensor *and* expert ranks
need one reduction and no exchange of tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.spec import Parallelism


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention heads of one rank, as ranges of the network's heads."""

    query: range
    kv: range


@dataclass(frozen=True, slots=True)
class Layout:
    """The place of one rank among all ranks."""

    degrees: Parallelism
    tensor: int = 0
    expert: int = 0
    pipeline: int = 0

    @property
    def rank(self) -> int:
        """0 to world size - 1."""
        return self._rank_of(self.tensor, self.expert)

    @property
    def tensor_group(self) -> tuple[int, ...]:
        """The ranks that hold the other parts of this rank's matrices, in their order."""
        return tuple(self._rank_of(tensor, self.expert) for tensor in range(self.degrees.tensor))

    @property
    def expert_group(self) -> tuple[int, ...]:
        """The ranks whose sum is the output of this rank's mixture of experts."""
        return tuple(
            self._rank_of(tensor, expert)
            for expert in range(self.degrees.expert)
            for tensor in range(self.degrees.tensor)
        )

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank reads tokens rather than another stage's rows."""
        return self.pipeline == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes logits rather than rows for another stage."""
        return self.pipeline == self.degrees.pipeline - 1

    def layers(self, total: int) -> range:
        """The layers of this rank's stage; stages differ by one layer at most."""
        stages = self.degrees.pipeline
        return range(total * self.pipeline // stages, total * (self.pipeline + 1) // stages)

    def experts(self, total: int) -> range:
        """The experts of this rank."""
        return _even(total, self.degrees.expert, self.expert)

    def features(self, total: int) -> range:
        """The part of a feed-forward width that this rank holds."""
        return _even(total, self.degrees.tensor, self.tensor)

    def heads(self, query: int, kv: int) -> Heads:
        """The heads of this rank, of networks with `query` and `kv` heads."""
        return Heads(self.features(query), self.kv_heads(kv))

    def kv_heads(self, total: int) -> range:
        """The KV heads of this rank. Where they are fewer than ranks, neighbours repeat one."""
        ranks = self.degrees.tensor
        if total >= ranks:
            return self.features(total)
        repeated = self.tensor * total // ranks
        return range(repeated, repeated + 1)

    def vocabulary(self, total: int) -> range:
        """The tokens whose rows this rank holds: `vocabulary_width` of them, the last rank fewer."""
        width = self.vocabulary_width(total)
        return range(min(self.tensor * width, total), min((self.tensor + 1) * width, total))

    def vocabulary_width(self, total: int) -> int:
        """The tokens of every rank but the last."""
        return -(-total // self.degrees.tensor)

    def _rank_of(self, tensor: int, expert: int) -> int:
        degrees = self.degrees
        return tensor + degrees.tensor * (expert + degrees.expert * self.pipeline)


SOLE = Layout(Parallelism())
"""One rank that holds everything."""


def layouts(degrees: Parallelism) -> Iterator[Layout]:
    """Every rank's place, by rank."""
    for pipeline in range(degrees.pipeline):
        for expert in range(degrees.expert):
            for tensor in range(degrees.tensor):
                yield Layout(degrees, tensor, expert, pipeline)


def _even(total: int, parts: int, index: int) -> range:
    width, rest = divmod(total, parts)
    if rest:
        # `fit` tells it better and earlier, for what it knows of.
        raise InvalidSpec(
            f"parallelism: {total} heads, features or experts of the network cannot be dealt out "
            f"to {parts} ranks evenly; choose a degree that divides them"
        )
    return range(index * width, (index + 1) * width)
