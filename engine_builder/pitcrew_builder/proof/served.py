"""Decoding in the form of the graph that is served, beside decoding in the form that is proven.

Thresholds judge the paged graph on whole texts. A runtime decodes by another form where there is
one (`manifest.GraphInterface.contiguous`), so that has to predict the same, token by token, in every
batch. Both forms have the same weights: what they differ by is nothing that quantization does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pitcrew_builder.manifest import ModelFacts, ResolvedShapes, Score
from pitcrew_builder.network import Network
from pitcrew_builder.proof.evaluate import score_of
from pitcrew_builder.proof.measure import Tally
from pitcrew_builder.proof.plan import Case, cases
from pitcrew_builder.proof.sequences import InContexts, Paged
from pitcrew_builder.proof.windows import Windows

STEPS = 16
"""Tokens of a text that are decoded one by one."""

BATCHES = 4
"""Runs of a batch size, each with other texts where there are so many."""


@dataclass(frozen=True, slots=True)
class Forms:
    """Two forms of one engine."""

    facts: ModelFacts
    shapes: ResolvedShapes
    served: Network
    proven: Network


def compare_decoding(
    texts: Windows, forms: Forms, advance: Callable[[float], None]
) -> tuple[Score, ...]:
    """A score of the served form for each batch size; its reference is the form that is proven.

    `texts` have two tokens each at least.
    """
    buckets = sorted({case.batch for case in cases(forms.shapes, texts.width)})
    scores = []
    for index, batch in enumerate(buckets):
        scores.append(_score(texts, forms, batch))
        advance((index + 1) / len(buckets))
    return tuple(scores)


def _score(texts: Windows, forms: Forms, batch: int) -> Score:
    page, tally = forms.shapes.kv_page_size, Tally()
    capacity = -(-texts.width // page) * page
    for first in range(0, min(len(texts.ids), BATCHES * batch), batch):
        rows = texts.rows(first, batch)
        own = np.arange(batch) < len(texts.ids) - first
        _decode(tally, forms, capacity, rows, own)
    return score_of(Case(batch, capacity), tally)


def _decode(
    tally: Tally, forms: Forms, capacity: int, rows: Windows, own: npt.NDArray[np.bool_]
) -> None:
    """Add the predictions of a batch's `own` rows [rows]; the others only fill it."""
    facts, proven, count = forms.facts, forms.proven, len(rows.ids)
    ours = InContexts(forms.served.run, facts, rows.lengths, capacity)
    theirs = Paged(proven.run, facts, proven.pool_dtype, forms.shapes.kv_page_size, capacity, rows)
    row, last = np.arange(count), np.array([0])
    # Texts of one length begin at a third, a half and two thirds, so that contexts are unlike.
    at = np.maximum(1, rows.lengths * (2 + row % 3) // 6)
    for form in (ours, theirs):
        form.take(rows.ids[:, : at.max()], np.zeros_like(at), at, last)
    for _ in range(STEPS):
        following = np.minimum(at + 1, rows.lengths - 1)
        known = own & (following > at)
        step = rows.ids[row, at][:, None], at, np.ones_like(at), last
        found, wanted = ours.take(*step)[:, 0], theirs.take(*step)[:, 0]
        tally.add(found[known], wanted[known], rows.ids[row, following][known])
        # A row that has ended computes its last token again.
        at = following
