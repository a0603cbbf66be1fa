"""A garbage collection of the store leaves the engine of a running server alone."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.integration.runtime.conftest import Engines, Serve


def _collect(store: Path) -> str:
    command = [sys.executable, "-m", "pitcrew_builder.engine_cli", "gc", "--store", str(store)]
    everything = ["--keep-last", "0", "--older-than", "0m", "--delete"]
    return subprocess.run(
        [*command, *everything], check=True, capture_output=True, text=True
    ).stdout


def test_an_engine_that_is_served_stays(engines: Engines, serve: Serve, tmp_path: Path) -> None:
    built = engines("llama3")
    engine = tmp_path / "store" / built.relative_to(built.parents[3])
    shutil.copytree(built, engine)
    with serve(engine):
        assert "kept: being read" in _collect(tmp_path / "store")
        assert engine.is_dir()
    assert "1 engine(s) removed" in _collect(tmp_path / "store")
    assert not engine.exists()
