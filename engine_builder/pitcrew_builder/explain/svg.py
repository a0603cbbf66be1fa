"""Two kinds of charts as inline SVG: rows of stacked bars, and rows of single bars.

Text and bars take their colours from the page's style sheet, so the page decides dark and light.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

ROW = 20
BAR = 13
CHARACTER = 7.4
"""The width of a wide one in the font's size, in pixels: fonts differ, and no label may be cut."""

WIDTH = 900
RIGHT = 140


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: a label, pieces by series, and what is told beside them."""

    label: str
    pieces: Mapping[str, float]
    told: str


def chart(bars: Sequence[Bar], title: str) -> str:
    """An `<svg>` of one row a bar; the longest fills the width. Series are the CSS classes."""
    left = 12 + CHARACTER * max((len(bar.label) for bar in bars), default=0)
    longest = max((sum(bar.pieces.values()) for bar in bars), default=0.0) or 1.0
    scale = max(WIDTH - left - RIGHT, 100) / longest
    rows = "".join(_row(index * ROW, bar, left, scale) for index, bar in enumerate(bars))
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {ROW * len(bars)}" '
        f'width="{WIDTH}" height="{ROW * len(bars)}">{rows}</svg>'
    )


def legend(series: Sequence[str]) -> str:
    """The names of the series with their colours."""
    items = "".join(f'<li><i class="{_name(item)}"></i>{escape(item)}</li>' for item in series)
    return f'<ul class="legend">{items}</ul>'


def _row(top: int, bar: Bar, left: float, scale: float) -> str:
    x = left
    parts = [_text(left - 8, top, bar.label, "end")]
    for series, amount in bar.pieces.items():
        width = amount * scale
        parts.append(
            f'<rect class="{_name(series)}" x="{x:.1f}" y="{top + 3}" width="{width:.1f}" '
            f'height="{BAR}"><title>{escape(f"{bar.label}: {series} {bar.told}")}</title></rect>'
        )
        x += width
    parts.append(_text(x + 6, top, bar.told, "start"))
    return "".join(parts)


def _text(x: float, top: int, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{top + 14}" text-anchor="{anchor}">{escape(text)}</text>'


def _name(series: str) -> str:
    return escape(series.replace(" ", "-"))
