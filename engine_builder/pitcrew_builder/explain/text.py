"""What an engine is, on a terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping

from rich.console import Console, Group
from rich.table import Table

from pitcrew_builder.explain.scores import SCORES, TASKS, score_rows, task_rows
from pitcrew_builder.explain.summary import Explained, blocks, errors_by_layer
from pitcrew_builder.manifest import Manifest, ProofReport

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
    if explained.ranks:
        yield _shares(
            "bytes by tensor class", {str(k): v for k, v in explained.bytes_by_part.items()}
        )
        yield _shares("bytes by element type", explained.bytes_by_type)
        yield _operators(explained)
    yield from (_profiles(manifest, rank) for rank in _plans(manifest))
    yield from (_fusion(manifest, rank) for rank in _plans(manifest))
    if manifest.proof is not None:
        yield _scores(manifest.proof)
        if manifest.proof.tasks:
            yield _tasks(manifest.proof)
    if errors := errors_by_layer(manifest):
        yield _errors(errors)


def _plans(manifest: Manifest) -> list[int]:
    return [number for number, rank in enumerate(manifest.ranks) if rank.plan is not None]


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


def _profiles(manifest: Manifest, rank: int) -> Table:
    plan = manifest.ranks[rank].plan
    table = _titled(f"optimization profiles of rank {rank}", "profile", "input", "shapes")
    for profile in plan.profiles if plan else ():
        for name, shapes in profile.shapes.items():
            table.add_row(profile.name, name, " … ".join("×".join(map(str, s)) for s in shapes))
    return table


def _fusion(manifest: Manifest, rank: int) -> Table:
    plan = manifest.ranks[rank].plan
    table = _titled(
        f"fusion in the plan of rank {rank}", "block", "operators", "layers", "kernels by profile"
    )
    for block in plan.blocks if plan else ():
        kernels = " / ".join(map(str, block.kernels)) or "not told"
        table.add_row(
            block.block or "around them", str(block.operators), str(block.layers), kernels
        )
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
