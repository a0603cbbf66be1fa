"""Whole engines on a GPU: what `pitcrew-build` makes computes what transformers does."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.needs import PLANS
from tests.integration.builder.plans import GOLDENS

SCRIPT = Path(__file__).parents[2] / "bench/gpu/facts/families.py"

pytestmark = PLANS


@pytest.mark.parametrize(
    "name", ["llama3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "mixtral", "gpt-oss"]
)
def test_logits_and_tokens_are_those_of_transformers(name: str) -> None:
    """In both precisions, by both profiles, in ragged batches, and replayed in CUDA graphs."""
    kernels = ["--attention", "kernel", "--products", "kernel"]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, GOLDENS / name, *kernels],
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in run.stdout.splitlines() if line.startswith("   ")]
    assert run.returncode == 0, "\n".join(told) or run.stderr
