"""What an engine is, as one HTML page that needs nothing else: no script, no font, no network."""

from collections.abc import Collection, Iterator, Sequence
from html import escape

from pitcrew_builder.explain.anatomy import Part
from pitcrew_builder.explain.scores import SCORES, TASKS, score_rows, task_rows
from pitcrew_builder.explain.summary import (
    Explained,
    blocks,
    cache_ranges,
    errors_by_layer,
    ranges,
)
from pitcrew_builder.explain.svg import Bar, chart, legend
from pitcrew_builder.explain.text import facts
from pitcrew_builder.manifest import Manifest, ProofReport

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --dim: #5b6670; --line: #d8dde2; --paper: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --dim: #98a3ad; --line: #353d45; --paper: #14181c }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 980px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2.2rem }
p { color: var(--dim) }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left;
         vertical-align: top; overflow-wrap: anywhere }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td:first-child { overflow-wrap: normal; white-space: nowrap }
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


def page(explained: Explained) -> str:
    """The whole document."""
    manifest = explained.manifest
    body = "\n".join(_sections(explained))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(manifest.tag)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(manifest.tag)}</h1>\n{body}\n"
        f"</body></html>\n"
    )


def _sections(explained: Explained) -> Iterator[str]:
    manifest = explained.manifest
    yield _table((), facts(manifest))
    if explained.ranks:
        yield _layer_bytes(explained)
        yield _section("Bytes by element type", _shares(explained))
    if errors := errors_by_layer(manifest):
        bars = [Bar(name, {"value": error}, f"{error:.2%}") for name, error in errors.items()]
        yield _section(
            "Quantization error",
            "<p>Norm of the error over the norm of the matrix, mean of each layer.</p>"
            + chart(bars, "quantization error by layer"),
        )
    if found := ranges(manifest):
        bars = [Bar(short(name), {"value": most}, f"{most:.3g}") for name, most in found.items()]
        yield _section(
            "Calibration ranges",
            "<p>The largest magnitude of each matrix's input over the calibration prompts.</p>"
            + chart(bars, "calibration ranges"),
        )
    if cached := cache_ranges(manifest):
        bars = [Bar(name, {"value": most}, f"{most:.3g}") for name, most in cached.items()]
        yield _section(
            "Ranges of the KV cache",
            "<p>The largest magnitude of each layer's keys and values over the calibration "
            "prompts.</p>" + chart(bars, "ranges of the KV cache"),
        )
    if explained.ranks:
        yield _section("Graph operators by block", _operators(explained))
    yield from _plans(manifest)
    if manifest.proof is not None:
        yield _section("Proof on held-out prompts", _proof(manifest.proof))
        if manifest.proof.tasks:
            yield _section("Tasks", _tasks(manifest.proof))


def _layer_bytes(explained: Explained) -> str:
    layers = explained.bytes_by_layer
    bars = [
        Bar(
            name,
            {str(part): float(amount) for part, amount in parts.items()},
            _size(sum(parts.values())),
        )
        for name, parts in layers.items()
    ]
    present = [part for part in Part if any(part in parts for parts in layers.values())]
    return _section(
        "Bytes by layer", legend([str(part) for part in present]) + chart(bars, "bytes by layer")
    )


def _shares(explained: Explained) -> str:
    amounts = explained.bytes_by_type
    whole = sum(amounts.values()) or 1
    bars = [
        Bar(name, {"value": float(amount)}, f"{_size(amount)} ({amount / whole:.1%})")
        for name, amount in amounts.items()
    ]
    return chart(bars, "bytes by element type")


def _operators(explained: Explained) -> str:
    rows = [
        (name, str(operators.total()), ", ".join(f"{op} {n}" for op, n in operators.most_common()))
        for name, operators in blocks(explained.ranks[0])
    ]
    return "<p>Functions opened.</p>" + _table(
        ("block", "operators", "of which"), rows, numbers={1}
    )


def _plans(manifest: Manifest) -> Iterator[str]:
    for number, rank in enumerate(manifest.ranks):
        if rank.plan is None:
            continue
        fusion = [
            (
                block.block or "around them",
                str(block.operators),
                str(block.layers),
                " / ".join(map(str, block.kernels)) or "not told",
            )
            for block in rank.plan.blocks
        ]
        profiles = [
            (profile.name, name, " … ".join("×".join(map(str, shape)) for shape in shapes))
            for profile in rank.plan.profiles
            for name, shapes in profile.shapes.items()
        ]
        titles = ("block", "operators", "layers", "kernels by profile")
        yield _section(f"Fusion, rank {number}", _table(titles, fusion, numbers={1, 2}))
        yield _section(
            f"Optimization profiles, rank {number}",
            _table(("profile", "input", "least … usual … largest"), profiles),
        )


def _proof(proof: ProofReport) -> str:
    told = f"<p>{proof.prompts} prompts, against {escape(proof.reference)}.</p>"
    return told + _table(SCORES, score_rows(proof), numbers=range(len(SCORES)))


def _tasks(proof: ProofReport) -> str:
    told = "<p>Greedy answers against references. Of wer less is better.</p>"
    return told + _table(TASKS, task_rows(proof), numbers=range(1, len(TASKS)))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()
) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="{"n" if index in numbers else "t"}">{escape(cell)}</{tag}>'
            for index, cell in enumerate(cells)
        )

    head = f"<tr>{line(titles, 'th')}</tr>" if titles else ""
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def short(name: str) -> str:
    """A matrix, or several that are joined, by what tells them apart."""
    parts = [part.removeprefix("model.").removesuffix(".weight") for part in name.split("+")]
    block = parts[0].rpartition(".")[0]
    return "+".join([parts[0], *(part.removeprefix(f"{block}.") for part in parts[1:])])


def _size(amount: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:,.4g} {unit}"
        amount /= 1024
    return f"{amount:,.2f} GiB"
