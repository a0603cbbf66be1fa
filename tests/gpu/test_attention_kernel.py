"""The attention kernel on a GPU: every case of the bench is what float64 says."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pitcrew_builder.targets.trt.gpu import compute_capability

SCRIPT = Path(__file__).parents[2] / "bench/gpu/facts/attention_kernel.py"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(compute_capability() is None, reason="no GPU"),
    pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-python is not installed"),
]


def test_it_is_right_for_all_heads_pages_windows_and_lengths() -> None:
    run = subprocess.run(
        [sys.executable, SCRIPT, "--right-only"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
