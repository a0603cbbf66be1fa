"""Pieces of a page: sections, tables, tiles and heat maps, and the style they share."""

from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --dim: #5b6670; --line: #d8dde2; --paper: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --dim: #98a3ad; --line: #353d45; --paper: #14181c }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 980px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2.2rem }
p, summary { color: var(--dim) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem;
         padding: 0; margin: 1.2rem 0; list-style: none }
.tiles li { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem }
.tiles b { display: block; font-size: 1.25rem } .tiles span { color: var(--dim); font-size: 13px }
details { margin: .5rem 0 } summary { cursor: pointer }
td.heat { text-align: right; font-variant-numeric: tabular-nums; padding: .2rem .6rem }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left;
         vertical-align: top; overflow-wrap: anywhere }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td:first-child { overflow-wrap: normal; white-space: nowrap } svg + table { margin-top: .8rem }
section { overflow-x: auto }
svg { max-width: 100%; min-width: 640px; height: auto } svg text { font-size: 12px; fill: var(--ink) }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; list-style: none;
          font-size: 13px }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
.embedding { fill: #4e79a7; background: #4e79a7 } .attention { fill: #f28e2b; background: #f28e2b }
.mlp { fill: #59a14f; background: #59a14f } .experts { fill: #8cd17d; background: #8cd17d }
.norms { fill: #e15759; background: #e15759 } .head { fill: #76b7b2; background: #76b7b2 }
.tables { fill: #9c755f; background: #9c755f } .value { fill: #4e79a7 }
"""


def section(title: str, content: str) -> str:
    """A part of the page with a heading."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def folded(title: str, content: str) -> str:
    """What is shown when asked for."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def tiles(figures: Sequence[tuple[str, str]]) -> str:
    """The few figures that are looked for first: what, and how much."""
    items = "".join(
        f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in figures
    )
    return f'<ul class="tiles">{items}</ul>'


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()
) -> str:
    """Rows of text; columns in `numbers` stand at the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="{"n" if index in numbers else "t"}">{escape(cell)}</{tag}>'
            for index, cell in enumerate(cells)
        )

    head = f"<tr>{line(titles, 'th')}</tr>" if titles else ""
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def heat(grid: Mapping[str, Mapping[str, float]], told: Callable[[float], str]) -> str:
    """A table of figures, each the redder the larger; rows may lack columns."""
    columns = list(dict.fromkeys(name for row in grid.values() for name in row))
    most = max((value for row in grid.values() for value in row.values()), default=0.0) or 1.0

    def cell(value: float | None) -> str:
        if value is None:
            return "<td></td>"
        shade = f"background: rgba(225, 87, 89, {0.75 * value / most:.2f})"
        return f'<td class="heat" style="{shade}">{escape(told(value))}</td>'

    head = "".join(f'<th class="n">{escape(name)}</th>' for name in columns)
    body = "".join(
        f"<tr><td>{escape(label)}</td>{''.join(cell(row.get(name)) for name in columns)}</tr>"
        for label, row in grid.items()
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"
