"""Run an engine beside its reference over held-out text, in every shape that it will serve."""

from collections.abc import Callable, Mapping

from pitcrew_builder.manifest import Score
from pitcrew_builder.proof.measure import Floats, Tally
from pitcrew_builder.proof.plan import Case, chunk
from pitcrew_builder.proof.sequences import Sequences
from pitcrew_builder.proof.windows import Windows

Open = Callable[[Windows, Case], Sequences]
"""Starts rows of text in the shape of a case."""


def evaluate(
    text: Windows,
    cases: tuple[Case, ...],
    engine: Open,
    reference: Open,
    vocabulary: int,
    advance: Callable[[float], None],
) -> tuple[Score, ...]:
    """A score for each case, all of them over the whole text."""
    tallies = {case: Tally() for case in cases}
    widest = max(case.batch for case in cases)
    group = min(widest, len(text.ids))
    for start in range(0, len(text.ids), group):
        rows = text.rows(start, min(group, len(text.ids) - start))
        _group(rows, tallies, engine, reference, vocabulary)
        advance((start + group) / len(text.ids))
    return tuple(score_of(case, tally) for case, tally in tallies.items())


def _group(
    rows: Windows,
    tallies: Mapping[Case, Tally],
    engine: Open,
    reference: Open,
    vocabulary: int,
) -> None:
    """Some rows through the reference once, and through the engine in the shape of each case."""
    count = len(rows.ids)
    truth = reference(rows, Case(count, rows.width))
    batches = {case: _batches(rows, case, engine) for case in tallies}
    step = chunk(count, rows.width, vocabulary)
    for start in range(0, rows.width - 1, step):
        stop = min(start + step, rows.width - 1)
        wanted = truth.extend(rows, start, stop)
        for case, tally in tallies.items():
            for first, part, sequences in batches[case]:
                logits = sequences.extend(part, start, stop)
                own = min(case.batch, count - first)
                _count(tally, part, own, logits, wanted[first : first + own], start)


def _batches(rows: Windows, case: Case, engine: Open) -> list[tuple[int, Windows, Sequences]]:
    """The rows in batches of exactly the case's size, each with its first row's index."""
    parts = [(first, rows.rows(first, case.batch)) for first in range(0, len(rows.ids), case.batch)]
    return [(first, part, engine(part, case)) for first, part in parts]


def _count(
    tally: Tally, part: Windows, own: int, logits: Floats, wanted: Floats, start: int
) -> None:
    """Add the predictions of a batch's first `own` rows; the others only fill it."""
    known, following = part.predicted(start, start + logits.shape[1])
    mask = known[:own]
    tally.add(logits[:own][mask], wanted[mask], following[:own][mask])


def score_of(case: Case, tally: Tally) -> Score:
    """What was counted in a shape."""
    return Score(
        batch=case.batch,
        capacity=case.capacity,
        tokens=tally.tokens,
        perplexity=tally.perplexity,
        reference_perplexity=tally.reference_perplexity,
        top1_agreement=tally.top1_agreement,
        kl_divergence=tally.kl_divergence,
    )
