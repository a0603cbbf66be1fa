"""What quantization costs and what calibration text is worth, on the sample model.

The held-out documents of the sample model are dealt out in turn. Every fourth calibrates, every fourth
judges, and the two between are for tuning: what a method does is decided there (`--tuning`), and the
judging documents see the result alone. Perplexity is taken as the model's README takes it (windows
of 256). The generic text is the reference manual that comes with every Python: English, but nobody's
prompts to this model.
"""

import argparse
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from pitcrew_builder.manifest import Manifest
from pitcrew_builder.network import Executable
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.pools import Pools
from pitcrew_builder.progress import Tracker
from pitcrew_builder.proof.measure import Tally
from pitcrew_builder.spec import BuildSpec

SAMPLE = Path(__file__).parents[1] / "samples" / "models" / "tiny-kjv"
BEGIN, END = 1, 0
WINDOW, WINDOWS, ROWS = 256, 128, 8
PASSAGE = 900


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    quantization: dict[str, Any] | None
    text: str = ""


@dataclass(frozen=True)
class Measured:
    """A variant, built and read."""

    variant: Variant
    manifest: Manifest
    tally: Tally


VARIANTS = (
    Variant("none", None),
    Variant("int8 round", {"weights": "int8"}),
    Variant("int8 round, wide head", {"weights": "int8", "head": "wide"}),
    Variant("int4 round", {"weights": "int4"}),
    Variant("int4 round, wide head", {"weights": "int4", "head": "wide"}),
    Variant("int4 awq", {"weights": "int4", "method": "awq"}, "own"),
    Variant("int4 awq, wide head", {"weights": "int4", "method": "awq", "head": "wide"}, "own"),
    Variant("int4 awq", {"weights": "int4", "method": "awq"}, "generic"),
    Variant("int4 gptq", {"weights": "int4", "method": "gptq"}, "own"),
    Variant("int4 gptq", {"weights": "int4", "method": "gptq"}, "generic"),
    Variant("fp8 round", {"weights": "fp8", "method": "round"}, "own"),
    Variant("fp8 gptq", {"weights": "fp8", "method": "gptq"}, "own"),
    Variant("kv int8", {"kvCache": "int8"}, "own"),
    Variant("kv fp8", {"kvCache": "fp8"}, "own"),
    Variant("int4 gptq, kv int8", {"weights": "int4", "method": "gptq", "kvCache": "int8"}, "own"),
    Variant("int4 gptq, kv fp8", {"weights": "int4", "method": "gptq", "kvCache": "fp8"}, "own"),
    Variant("fp8 gptq, kv int8", {"weights": "fp8", "method": "gptq", "kvCache": "int8"}, "own"),
    Variant("fp8 gptq, kv fp8", {"weights": "fp8", "method": "gptq", "kvCache": "fp8"}, "own"),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default="", help="variants whose name and text this pattern finds, and the first"
    )
    parser.add_argument(
        "--tuning", action="store_true", help="judge on the documents that methods are tuned on"
    )
    options = parser.parse_args()
    wanted = [v for v in VARIANTS[1:] if re.search(options.only, f"{v.name} {v.text}")]
    documents = (SAMPLE / "heldout-text.txt").read_text().split("\n\f\n")
    judging = documents[1::2] if options.tuning else documents[0::4]
    with tempfile.TemporaryDirectory() as work:
        files = write_prompts(Path(work), documents[2::4], judging)
        ids = token_ids(judging)
        judge = Judge(*build_variant(Path(work), files, VARIANTS[0]), ids)
        rows: list[Measured] = []
        for variant in [VARIANTS[0], *wanted]:
            engine, manifest = build_variant(Path(work), files, variant)
            rows.append(Measured(variant, manifest, judge.tally(engine, manifest)))
        show(rows)


def write_prompts(work: Path, own: list[str], judging: list[str]) -> dict[str, Path]:
    """By the name of a text, a file of its passages."""
    texts = {
        "own": passages(own),
        "judging": passages(judging),
        "generic": passages([topics[name] for name in sorted(topics)]),
    }
    for name, lines in texts.items():
        content = "\n".join(json.dumps({"text": text}) for text in lines)
        (work / f"{name}.jsonl").write_text(content)
    return {name: work / f"{name}.jsonl" for name in texts}


def passages(documents: list[str]) -> list[str]:
    """Documents in pieces of about a prompt's length, cut between lines."""
    pieces = [""]
    for document in documents:
        for line in re.split(r"(?<=\n)", document):
            if len(pieces[-1]) > PASSAGE:
                pieces.append("")
            pieces[-1] += line
        pieces.append("")
    return [piece for piece in pieces if len(piece) > PASSAGE // 8]


def token_ids(documents: list[str]) -> np.ndarray:
    """Every document as begin, tokens, end; one after the other."""
    tokenizer = Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in documents]
    return np.array([token for ids in encoded for token in (BEGIN, *ids, END)], dtype=np.int64)


def build_variant(work: Path, files: dict[str, Path], variant: Variant) -> tuple[Path, Manifest]:
    """The engine's directory, and its manifest."""
    source = {"kind": "local", "path": str(SAMPLE), "name": SAMPLE.name}
    document: dict[str, Any] = {"source": source, "shapes": {"maxBatchSize": 1}}
    if variant.quantization is not None:
        document["quantization"] = dict(variant.quantization)
        if variant.text:
            document["quantization"]["calibration"] = {"path": str(files[variant.text])}
        # The table wants the figures of the bad ones too.
        prompts = {"path": str(files["judging"]), "samples": 1}
        document["proof"] = {"prompts": prompts, "maxPerplexityIncrease": "1000"}
    places = Places(work / "store", work / "cache")
    done = build(BuildSpec.model_validate(document), places, Tracker(lambda _: None))
    engine = work / "store" / done.path
    return engine, Manifest.model_validate_json((engine / "manifest.json").read_text())


class Judge:
    """The unquantized engine's predictions of the judging text, computed once."""

    def __init__(self, engine: Path, manifest: Manifest, ids: np.ndarray) -> None:
        count = min(WINDOWS, (len(ids) - 1) // WINDOW)
        self._inputs = ids[: count * WINDOW].reshape(count, WINDOW)
        self._targets = ids[1 : count * WINDOW + 1].reshape(count, WINDOW)
        self._wanted = list(self._predictions(engine, manifest))

    def tally(self, engine: Path, manifest: Manifest) -> Tally:
        """An engine's predictions beside them, as it is served."""
        tally = Tally()
        found = self._predictions(engine, manifest)
        for wanted, logits, targets in zip(
            self._wanted, found, self._rows(self._targets), strict=True
        ):
            flat = (-1, logits.shape[-1])
            tally.add(logits.reshape(flat), wanted.reshape(flat), targets.reshape(-1))
        return tally

    def _predictions(self, engine: Path, manifest: Manifest) -> Iterator[np.ndarray]:
        network = Executable(engine / manifest.ranks[0].graph, packed=True)
        for rows in self._rows(self._inputs):
            yield network.run(_feeds(manifest, network.pool_dtype, rows))["logits"]

    def _rows(self, windows: np.ndarray) -> list[np.ndarray]:
        return [windows[start : start + ROWS] for start in range(0, len(windows), ROWS)]


def _feeds(manifest: Manifest, dtype: np.dtype[Any], rows: np.ndarray) -> dict[str, np.ndarray]:
    model, page = manifest.model, manifest.identity.shapes.kv_page_size
    every = np.tile(np.arange(rows.shape[1]), (len(rows), 1))
    return {
        "input_ids": rows,
        "positions": every,
        "block_tables": np.zeros((len(rows), 0), np.int64),
        "context_lengths": np.zeros(len(rows), np.int64),
        "logit_indices": every,
        **Pools(model, dtype, 1, page).arrays,
    }


_LEFT = ("weights", "calibrated on")


def show(rows: list[Measured]) -> None:
    """The table, with the machine."""
    console = Console(width=120)
    table = Table(title="tiny-kjv, held-out text")
    for column in (*_LEFT, "perplexity", "change", "top-1", "KL", "MB", "KV/token", "s"):
        table.add_column(column, justify="left" if column in _LEFT else "right")
    for row in rows:
        tally, base = row.tally, rows[0].tally.perplexity
        table.add_row(
            row.variant.name,
            row.variant.text,
            f"{tally.perplexity:.3f}",
            f"{100 * (tally.perplexity / base - 1):+.2f} %",
            f"{100 * tally.top1_agreement:.1f} %",
            f"{tally.kl_divergence:.4f}",
            f"{row.manifest.size_bytes / 1e6:.2f}",
            f"{row.manifest.kv_bytes_per_token:,}",
            f"{sum(row.manifest.timings.values()):.1f}",
        )
    console.print(table)
    for row in rows:
        for warning in row.manifest.quantization.warnings if row.manifest.quantization else ():
            console.print(f"{row.variant.name}, {row.variant.text} text: {warning}")
    tools = rows[0].manifest.identity.toolchain
    console.print(
        f"{rows[0].tally.tokens:,} predictions; {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, ONNX Runtime {tools['onnxruntime']}"
    )


if __name__ == "__main__":
    main()
