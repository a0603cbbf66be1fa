"""What an engine is, as one HTML page that needs nothing else: no script, no font, no network."""

from collections.abc import Iterator, Mapping
from html import escape

from pitcrew_builder.explain.html import STYLE, folded, heat, section, table, tiles
from pitcrew_builder.explain.scores import SCORES, TASKS, score_rows, task_rows
from pitcrew_builder.explain.summary import (
    Explained,
    blocks,
    by_layer,
    cache_ranges,
    errors,
    errors_by_layer,
    fusion,
    kernel_share,
    named_blocks,
    profile_rows,
    ranges,
    usual_block,
)
from pitcrew_builder.explain.svg import Bar, chart, legend
from pitcrew_builder.explain.text import facts
from pitcrew_builder.graph.parts import Part
from pitcrew_builder.manifest import Manifest, PlanReport, ProofReport, size_text


def page(explained: Explained) -> str:
    """The whole document."""
    manifest = explained.manifest
    body = "\n".join(_sections(explained))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(manifest.tag)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(manifest.tag)}</h1>\n{body}\n"
        f"</body></html>\n"
    )


def _sections(explained: Explained) -> Iterator[str]:
    manifest = explained.manifest
    yield tiles(list(_figures(manifest)))
    yield table((), facts(manifest))
    if layers := explained.bytes_by_layer:
        yield section("Bytes by layer", _layer_bytes(layers))
        classes = {str(part): amount for part, amount in explained.bytes_by_part.items()}
        yield section("Bytes by tensor class", _shares(classes, "bytes by tensor class"))
        kinds = explained.bytes_by_type
        yield section("Bytes by element type", _shares(kinds, "bytes by element type"))
    yield from _quantization(manifest)
    if explained.ranks:
        yield section("Graph operators by block", _operators(explained))
    for number, rank in enumerate(manifest.ranks):
        if rank.plan is not None:
            yield from _plan(rank.plan, number)
    if manifest.proof is not None:
        yield section("Proof on held-out prompts", _proof(manifest.proof))
        if manifest.proof.tasks:
            yield section("Tasks", _tasks(manifest.proof))


def _figures(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "on disk", size_text(manifest.size_bytes)
    yield "KV cache a token", size_text(manifest.kv_bytes_per_token)
    if (report := manifest.quantization) and report.matrices:
        before = sum(matrix.bytes_before for matrix in report.matrices)
        after = sum(matrix.bytes_after for matrix in report.matrices)
        yield "quantized matrices, of their bytes", f"{after / before:.1%}"
    if manifest.proof is not None and manifest.proof.scores:
        worst = manifest.proof.worst
        yield "perplexity", f"{worst.perplexity / worst.reference_perplexity - 1:+.2%}"
        yield "same top token", f"{worst.top1_agreement:.1%}"
    plan = manifest.ranks[0].plan
    if plan is not None and (block := usual_block(plan)) is not None:
        kernels = " / ".join(map(str, block.kernels))
        yield f"kernels for {block.operators} operators of a layer", kernels
    yield "seconds to build", f"{sum(manifest.timings.values()):,.1f}"


def _layer_bytes(layers: Mapping[str, Mapping[Part, int]]) -> str:
    bars = [
        Bar(
            name,
            {str(part): float(amount) for part, amount in parts.items()},
            size_text(sum(parts.values())),
        )
        for name, parts in layers.items()
    ]
    present = [part for part in Part if any(part in parts for parts in layers.values())]
    return legend([str(part) for part in present]) + chart(bars, "bytes by layer")


def _shares(amounts: Mapping[str, int], title: str) -> str:
    whole = sum(amounts.values()) or 1
    told = {name: f"{size_text(amount)} ({amount / whole:.1%})" for name, amount in amounts.items()}
    return chart([Bar(name, _value(amount), told[name]) for name, amount in amounts.items()], title)


def _quantization(manifest: Manifest) -> Iterator[str]:
    if found := errors_by_layer(manifest):
        bars = [Bar(name, _value(error), f"{error:.2%}") for name, error in found.items()]
        yield section(
            "Quantization error",
            "<p>Norm of the error over the norm of the matrix, mean of each layer.</p>"
            + chart(bars, "quantization error by layer")
            + heat(errors(manifest), lambda error: f"{error:.2%}"),
        )
    if grid := ranges(manifest):
        bars = [
            Bar(name, _value(most), f"{most:.3g}") for name, most in by_layer(grid, max).items()
        ]
        yield section(
            "Calibration ranges",
            "<p>The largest magnitude of the matrices' inputs over the calibration prompts.</p>"
            + chart(bars, "calibration ranges")
            + heat(grid, lambda most: f"{most:.3g}"),
        )
    if cached := cache_ranges(manifest):
        bars = [Bar(name, _value(most), f"{most:.3g}") for name, most in cached.items()]
        yield section(
            "Ranges of the KV cache",
            "<p>The largest magnitude of each layer's keys and values over the calibration "
            "prompts.</p>" + chart(bars, "ranges of the KV cache"),
        )


def _value(amount: float) -> dict[str, float]:
    return {"value": float(amount)}


def _operators(explained: Explained) -> str:
    rows = [
        (name, str(operators.total()), ", ".join(f"{op} {n}" for op, n in operators.most_common()))
        for name, operators in blocks(explained.ranks[0])
    ]
    return "<p>Functions opened.</p>" + table(("block", "operators", "of which"), rows, numbers={1})


def _plan(plan: PlanReport, rank: int) -> Iterator[str]:
    fused = [
        (
            name,
            str(block.operators),
            str(block.layers),
            " / ".join(map(str, block.kernels)) or "not told",
            kernel_share(block),
        )
        for name, block in fusion(plan)
    ]
    order = " / ".join(profile.name for profile in plan.profiles)
    titles = ("block", "operators", "layers", f"kernels, {order}", "of the operators")
    yield section(
        f"Fusion, rank {rank}",
        "<p>Operators of the graph, functions opened; layers as the compiler reads them; kernels "
        "that it launches.</p>" + table(titles, fused, numbers={1, 2, 3, 4}) + _kernels(plan),
    )
    yield section(
        f"Optimization profiles, rank {rank}",
        table(("profile", "input", "least … usual … largest"), profile_rows(plan)),
    )


def _kernels(plan: PlanReport) -> str:
    """The kernels of each kind of block, folded."""
    return "".join(
        folded(
            f"{each.profile}, {named_blocks(each)}: {len(each.launches)} kernels",
            table(
                ("kind", "kernel", "computes"),
                [(launch.kind, launch.name, ", ".join(launch.nodes)) for launch in each.launches],
            ),
        )
        for each in plan.kernels
    )


def _proof(proof: ProofReport) -> str:
    told = f"<p>{proof.prompts} prompts, against {escape(proof.reference)}.</p>"
    return told + table(SCORES, score_rows(proof), numbers=range(len(SCORES)))


def _tasks(proof: ProofReport) -> str:
    told = "<p>Greedy answers against references. Of wer less is better.</p>"
    return told + table(TASKS, task_rows(proof), numbers=range(1, len(TASKS)))
