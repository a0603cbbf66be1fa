"""ONNX Runtime's wheels send usage data unless they are told not to; ours are told."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("ours", ["pitcrew_builder", "pitcrew_runtime"])
def test_onnx_runtime_leaves_no_trace_beside_us(ours: str, tmp_path: Path) -> None:
    # A bare environment: the library is silent in known test environments anyhow.
    environment = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    script = f"import {ours}, onnxruntime; onnxruntime.SessionOptions()"
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, check=True)
    assert list(tmp_path.rglob("*")) == []
