"""One step, reserved and not yet run."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.request import Update
from pitcrew_runtime.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Plan:
    """What the scheduler has promised itself; exactly one of commit and rollback follows."""

    batch: StepBatch
    sequences: Seq[Sequence]
    """Parallel to the batch's rows."""
    tokens: int
    """New tokens in all rows."""
    admitted: Seq[Sequence]
    """Those of the rows that left the waiting room for this step."""
    reserved: Seq[tuple[Sequence, int]]
    """Pages handed to sequences that ran before."""
    reused: int
    """Tokens that the admitted ones need not compute, for their pages were found."""
    ended: tuple[Update, ...]
    """Requests that were cancelled or came too late since the last step."""


@dataclass(slots=True)
class Draft:
    """A plan in the making."""

    budget: int
    """New tokens that may still be planned."""
    rows: list[Row] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    reserved: list[tuple[Sequence, int]] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    reused: int = 0


@dataclass(slots=True)
class Counts:
    """What has happened since the start."""

    preemptions: int = 0
    outgrown: int = 0
    """Sequences that were computed again because they became long texts."""
    known_tokens: int = 0
    """Of admitted sequences, prompts and what a preemption took away."""
    reused_tokens: int = 0
    """Those of them that were found in pages."""
