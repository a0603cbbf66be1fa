"""Splits a step into runs of the graph: rows of like length together, so that little is padding."""

from collections.abc import Sequence

from pitcrew_runtime.core.batch import Row

PADDING_TOLERATED = 0.25


def group(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows by run.

    Within a run no row is padded by more than a quarter of its own tokens; decoding rows, one
    token each, so come to stand together and alone.
    """
    if rows and max(len(row.tokens) for row in rows) == 1:
        return [list(range(len(rows)))]
    groups: list[list[int]] = []
    shortest = 0
    for index in sorted(range(len(rows)), key=lambda i: len(rows[i].tokens)):
        length = len(rows[index].tokens)
        if not groups or length > shortest * (1 + PADDING_TOLERATED):
            groups.append([])
            shortest = length
        groups[-1].append(index)
    return groups
