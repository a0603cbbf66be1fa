"""A prediction for people, and as JSON."""

from typing import Any

from rich.console import Console
from rich.table import Table

from pitcrew_builder.manifest import size_text
from pitcrew_builder.plan.advise import Answer
from pitcrew_builder.spec import BuildSpec


def document(spec: BuildSpec, answer: Answer) -> dict[str, Any]:
    """Everything that was predicted, in bytes, tokens and seconds, camelCase."""
    needed, room = answer.needs, answer.capacity
    predicted: dict[str, Any] = {
        "fits": answer.fits,
        "worldSize": spec.parallelism.world_size,
        "ranks": [
            {
                "weightBytes": rank.weights,
                "adapterBytes": rank.adapters,
                "activationBytes": rank.activations,
                "kvBytesPerToken": rank.kv_per_token,
            }
            for rank in needed.ranks
        ],
        "kvBytesPerToken": needed.kv_per_token,
        "engineDiskBytes": needed.engine_disk,
        "buildDiskBytes": needed.build_disk,
        "buildRamBytes": needed.build_ram,
        "buildSeconds": needed.build_seconds,
        "advice": list(answer.advice),
    }
    if answer.gpu is not None and room is not None:
        predicted["gpu"] = {
            "product": answer.gpu.product,
            "memoryBytes": answer.gpu.memory,
            "poolBytes": max(room.pool, 0),
            "tokens": room.tokens,
            "fullSequences": room.full_sequences,
            "averageLength": answer.average,
            "sequences": room.sequences,
            "tokensPerSecondBound": room.tokens_per_second,
        }
    return predicted


def refusal(spec: BuildSpec, answer: Answer) -> str:
    """Why a spec does not fit, in figures, and what would."""
    assert answer.gpu is not None
    assert answer.capacity is not None
    fullest = max(answer.needs.ranks, key=lambda rank: rank.fixed)
    slots = f"{size_text(fullest.adapters)} of adapter slots, " if fullest.adapters else ""
    wanted = fullest.kv_per_token * answer.network.shapes.max_sequence_length
    advice = "; or ".join(answer.advice) or "choose a GPU with more memory"
    return (
        f"{spec.parallelism.world_size} x {answer.gpu.product} ({size_text(answer.gpu.memory)} each) do "
        f"not hold the engine: a rank takes {size_text(fullest.weights)} of weights, {slots}and "
        f"{size_text(fullest.activations)} of activations, and one sequence of "
        f"{answer.network.shapes.max_sequence_length:,} tokens {size_text(wanted)} of KV cache, for which "
        f"{size_text(max(answer.capacity.pool, 0))} are left; nearest that fits: {advice}"
    )


def show(spec: BuildSpec, answer: Answer) -> None:
    """Print the prediction as a table."""
    table = Table(title="predicted from config.json", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (*_engine_rows(spec, answer), *_gpu_rows(answer)):
        table.add_row(name, value)
    Console().print(table)


def _engine_rows(spec: BuildSpec, answer: Answer) -> list[tuple[str, str]]:
    needed, shapes = answer.needs, answer.network.shapes
    fullest = max(needed.ranks, key=lambda rank: rank.fixed)
    slots = [("adapters", f"{size_text(fullest.adapters)} of slots on it")] if spec.lora else []
    return [
        ("target", f"{spec.target} {spec.precision}, {spec.parallelism.world_size} rank(s)"),
        ("limits", f"{shapes.max_batch_size} sequences of {shapes.max_sequence_length:,} tokens"),
        ("weights", f"{size_text(fullest.weights)} on the fullest rank"),
        *slots,
        ("activations", f"{size_text(fullest.activations)} on it (estimate)"),
        ("KV cache", f"{needed.kv_per_token:,} bytes per token, all ranks"),
        ("engine on disk", size_text(needed.engine_disk)),
        (
            "build",
            f"{size_text(needed.build_disk)} of disk, {size_text(needed.build_ram)} of memory (estimate)",
        ),
        ("build time", f"about {needed.build_seconds:,} s without a download or a proof (rough)"),
    ]


def _gpu_rows(answer: Answer) -> list[tuple[str, str]]:
    gpu, room = answer.gpu, answer.capacity
    if gpu is None or room is None:
        return []
    return [
        ("on", f"{gpu.product}, {size_text(gpu.memory)} each"),
        ("KV pool", f"{size_text(max(room.pool, 0))} a rank: {room.tokens:,} tokens"),
        ("sequences", f"{room.full_sequences} of full length at once"),
        (
            "",
            f"{room.sequences} of {answer.average:,} tokens, at most {room.tokens_per_second:,}/s",
        ),
    ]
