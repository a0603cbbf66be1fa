"""Text in columns, as kubectl prints it."""

from collections.abc import Sequence
from datetime import datetime

_GAP = "   "


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with a header, each column as wide as its widest cell; empty cells become dashes."""
    cells = [list(header), *([cell or "-" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def age(since: str | None, now: datetime) -> str:
    """Time since an RFC 3339 moment, such as 5m or 3d; empty where it is unknown."""
    if not since:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
