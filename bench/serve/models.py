"""The models, in the form that each contender reads. Made once and kept outside of the repository.

All forms of a model have the same tensors in the same precision: float32, or 4-bit codes in blocks
of 32 for the matrices of the layers, the embedding in float32 beside them, and the head in float32
or 8-bit codes.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import checkpoint
import environments
from environments import CACHE

WORK = CACHE / "models"
BLOCK = 32


@dataclass(frozen=True)
class Model:
    """A checkpoint and the precision of its layers' matrices."""

    name: str
    int4: bool = False
    int8_head: bool = False

    @property
    def form(self) -> str:
        """A word for the precision."""
        return ("int4" if self.int4 else "fp32") + ("-head8" if self.int8_head else "")

    @property
    def checkpoint(self) -> Path:
        """Written on first use."""
        if self.name == checkpoint.SAMPLE.name:
            return checkpoint.SAMPLE
        return _made(WORK / self.name, checkpoint.write)


MODELS = (
    Model(checkpoint.SAMPLE.name),
    Model("random-llama-125m"),
    Model("random-llama-125m", int4=True),
    Model("random-llama-125m", int4=True, int8_head=True),
)


def engine(model: Model) -> Path:
    """Our engine's directory; found by what it is made of, as always."""
    spec: dict[str, object] = {
        "source": {"kind": "local", "path": str(model.checkpoint), "name": model.name},
        "shapes": {"maxBatchSize": 32},
    }
    if model.int4:
        head = "int8" if model.int8_head else "wide"
        spec["quantization"] = {"weights": "int4", "method": "round", "blockSize": BLOCK, "head": head}  # fmt: skip
        # Random numbers predict nothing that codes could spoil.
        spec["proof"] = {"prompts": {"path": str(_prompts()), "samples": 1}, "maxPerplexityIncrease": "999999"}  # fmt: skip
    outcome = WORK / "outcome.json"
    command = [sys.executable, "-m", "pitcrew_builder.cli", "build", "--progress", "none"]
    command += ["--spec-json", json.dumps(spec), "--store", str(WORK / "store")]
    subprocess.run([*command, "--outcome", str(outcome)], check=True, stdout=subprocess.DEVNULL)
    return WORK / "store" / str(json.loads(outcome.read_text())["path"])


def gguf_file(model: Model) -> Path:
    """For llama.cpp."""
    script = Path(__file__).with_name("to_gguf.py")

    def write(target: Path) -> None:
        environments.run(environments.gguf(), script, model.checkpoint, target, model.form)

    return _made(WORK / f"{model.name}-{model.form}.gguf", write)


def genai_directory(model: Model, threads: int) -> Path:
    """For onnxruntime-genai, by its own model builder; its threads are a field of its files."""

    def write(target: Path) -> None:
        head = (
            "int4_algo_config=rtn_last" if model.int8_head else "nodes_to_exclude=/lm_head/MatMul"
        )
        more = [f"block_size={BLOCK}", head] if model.int4 else []
        environments.run(
            environments.genai(), "-m", "onnxruntime_genai.models.builder", "--input", model.checkpoint,
            "--output", target, "--precision", "int4" if model.int4 else "fp32", "--execution_provider", "cpu",
            "--cache_dir", WORK / "genai-cache", *(["--extra_options", *more] if more else []),
        )  # fmt: skip

    made = _made(WORK / f"{model.name}-{model.form}-genai", write)
    config = json.loads((made / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    (made / "genai_config.json").write_text(json.dumps(config, indent=1))
    return made


def _prompts() -> Path:
    text = (checkpoint.SAMPLE / "heldout-text.txt").read_text()
    file = WORK / "prompts.jsonl"
    file.write_text(
        "\n".join(json.dumps({"text": text[at : at + 400]}) for at in range(0, 1600, 400))
    )
    return file


def _made(target: Path, write: Callable[[Path], None]) -> Path:
    """What is there, or what `write` makes under another name first."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.stem}.draft{target.suffix}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.unlink(missing_ok=True)
        write(draft)
        draft.rename(target)
    return target
