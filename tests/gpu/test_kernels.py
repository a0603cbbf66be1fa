"""Our kernels on a GPU: every case of the bench is what float64 says."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pitcrew_builder.targets.trt.gpu import compute_capability

FACTS = Path(__file__).parents[2] / "bench/gpu/facts"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(compute_capability() is None, reason="no GPU"),
    pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-python is not installed"),
]


def _right(script: str) -> None:
    run = subprocess.run(
        [sys.executable, FACTS / script, "--right-only"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_attention_is_right_for_all_heads_pages_windows_and_lengths() -> None:
    _right("attention_kernel.py")


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch, the reference, is not installed")
def test_products_and_norms_are_right_for_all_shapes() -> None:
    _right("product_kernel.py")
