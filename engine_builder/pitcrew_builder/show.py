"""What an engine is, for people."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pitcrew_builder.manifest import Manifest
from pitcrew_builder.store import open_engine


def show(path: Path) -> None:
    """Print an engine's identity, shape, sizes and timings."""
    manifest = open_engine(path, digests=False)
    table = Table(title=manifest.tag, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(manifest):
        table.add_row(name, value)
    Console().print(table)


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
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
        ("KV cache", f"{manifest.kv_bytes_per_token:,} bytes per token"),
        ("built", manifest.created_at),
        ("seconds", ", ".join(f"{k} {v:.2f}" for k, v in manifest.timings.items())),
    ]
