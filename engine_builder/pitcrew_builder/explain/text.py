"""What an engine is, on a terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping

from rich.console import Console, Group
from rich.table import Table

from pitcrew_builder.explain.scores import SCORES, TASKS, score_rows, task_rows
from pitcrew_builder.explain.summary import (
    Explained,
    blocks,
    errors_by_layer,
    fusion,
    kernel_share,
    named_blocks,
    profile_rows,
    usual_block,
)
from pitcrew_builder.manifest import BlockKernels, Manifest, PlanReport, ProofReport

TOP = 12
"""Kinds of operators that a block names."""


def show(explained: Explained) -> None:
    """Print everything that is known of an engine."""
    Console().print(Group(*_tables(explained)))


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Name and value of what every engine has."""
    identity, model = manifest.identity, manifest.model
    shapes = identity.shapes
    return [
        ("engine id", manifest.engine_id),
        ("model", f"{identity.model} @ {identity.commit}"),
        ("architecture", f"{model.architecture}, {model.parameters:,} parameters"),
        (
            "network",
            (
                f"{model.layers} layers, hidden {model.hidden_size}, {model.attention_heads} heads, "
                f"{model.kv_heads} KV heads of {model.head_dim}, vocabulary {model.vocab_size:,}"
            ),
        ),
        ("target", f"{identity.target} {identity.precision}, {manifest.world_size} rank(s)"),
        ("built with", ", ".join(f"{k} {v}" for k, v in sorted(identity.toolchain.items()))),
        (
            "limits",
            (
                f"{shapes.max_batch_size} sequences of {shapes.max_sequence_length:,} tokens, "
                f"pages of {shapes.kv_page_size}"
            ),
        ),
        ("size", f"{manifest.size_bytes:,} bytes in {len(manifest.files)} files"),
        (
            "KV cache",
            f"{manifest.ranks[0].kv_dtype}, {manifest.kv_bytes_per_token:,} bytes per token",
        ),
        ("proven", manifest.proven),
        ("built", manifest.created_at),
        ("seconds", ", ".join(f"{k} {v:.2f}" for k, v in manifest.timings.items())),
    ]


def _tables(explained: Explained) -> Iterator[Table]:
    manifest = explained.manifest
    yield _facts(manifest)
    if parts := explained.bytes_by_part:
        yield _shares("bytes by tensor class", {str(k): v for k, v in parts.items()})
        yield _shares("bytes by element type", explained.bytes_by_type)
    if explained.ranks:
        yield _operators(explained)
    for number, rank in enumerate(manifest.ranks):
        if rank.plan is not None:
            yield _profiles(rank.plan, number)
            yield _fusion(rank.plan, number)
            yield from map(_kernels, _usual_kernels(rank.plan))
    if manifest.proof is not None:
        yield _scores(manifest.proof)
        if manifest.proof.tasks:
            yield _tasks(manifest.proof)
    if errors := errors_by_layer(manifest):
        yield _errors(errors)


def _facts(manifest: Manifest) -> Table:
    table = Table(title=manifest.tag, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(manifest):
        table.add_row(name, value)
    return table


def _shares(title: str, amounts: Mapping[str, int]) -> Table:
    table = _titled(title, "", "bytes", "share")
    whole = sum(amounts.values()) or 1
    for name, amount in amounts.items():
        table.add_row(str(name), f"{amount:,}", f"{amount / whole:.1%}")
    return table


def _operators(explained: Explained) -> Table:
    """Of rank 0: the other ranks of a split network are drawn alike."""
    anatomy = explained.ranks[0]
    table = _titled("graph operators by block, functions opened", "block", "ops", "of which")
    for name, operators in blocks(anatomy):
        table.add_row(name, str(operators.total()), _named(operators))
    table.add_row("all", str(anatomy.operators.total()), _named(anatomy.operators), style="bold")
    table.columns[2].justify = "left"
    return table


def _named(operators: Counter[str]) -> str:
    told = ", ".join(f"{name} {count}" for name, count in operators.most_common(TOP))
    return told + (", …" if len(operators) > TOP else "")


def _profiles(plan: PlanReport, rank: int) -> Table:
    table = _titled(f"optimization profiles of rank {rank}", "profile", "input", "shapes")
    for row in profile_rows(plan):
        table.add_row(*row)
    return table


def _fusion(plan: PlanReport, rank: int) -> Table:
    order = " / ".join(profile.name for profile in plan.profiles)
    columns = ("block", "operators", "layers", f"kernels, {order}", "of the operators")
    table = _titled(f"fusion in the plan of rank {rank}", *columns)
    for name, block in fusion(plan):
        kernels = " / ".join(map(str, block.kernels)) or "not told"
        table.add_row(name, str(block.operators), str(block.layers), kernels, kernel_share(block))
    return table


def _usual_kernels(plan: PlanReport) -> Iterator[BlockKernels]:
    """Of a usual layer, in each profile; the page has them all."""
    usual = usual_block(plan)
    return (each for each in plan.kernels if usual and usual.block in each.blocks)


def _kernels(kernels: BlockKernels) -> Table:
    table = _titled(f"kernels of {named_blocks(kernels)}, {kernels.profile}", "kernel", "computes")
    table.columns[1].justify = "left"
    for launch in kernels.launches:
        table.add_row(launch.name, ", ".join(launch.nodes))
    return table


def _scores(proof: ProofReport) -> Table:
    title = f"proof on {proof.prompts} held-out prompts, against {proof.reference}"
    table = _titled(title, *SCORES)
    for row in score_rows(proof):
        table.add_row(*row)
    return table


def _tasks(proof: ProofReport) -> Table:
    table = _titled("tasks, answered greedily", *TASKS)
    for row in task_rows(proof):
        table.add_row(*row)
    return table


def _errors(errors: Mapping[str, float]) -> Table:
    table = _titled("mean quantization error", "", "error")
    for name, error in errors.items():
        table.add_row(name, f"{error:.3%}")
    return table


def _titled(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for position, name in enumerate(columns):
        table.add_column(name, justify="right" if position else "left")
    return table
