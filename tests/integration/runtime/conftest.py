"""Real engines, built by the builder's command, and servers of them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.integration.runtime.servers import DEADLINE, Server, serving

ROOT = Path(__file__).parents[3]
CHECKPOINTS = {
    "tiny-kjv": ROOT / "samples/models/tiny-kjv",
    "llama3": ROOT / "tests/golden/data/llama3",
    "llama-tied": ROOT / "tests/golden/data/llama-tied",
    "mixtral": ROOT / "tests/golden/data/mixtral",
    "phi3-long": ROOT / "tests/golden/data/phi3-long",
}

Engines = Callable[..., Path]
Serve = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """Build an engine of a checkpoint, once for each set of options."""
    built: dict[tuple[str, ...], Path] = {}

    def build(checkpoint: str, *options: str) -> Path:
        key = (checkpoint, *options)
        if key not in built:
            store = tmp_path_factory.mktemp("engines")
            command = [sys.executable, "-m", "pitcrew_builder.cli", "build", "--progress", "none"]
            command += ["--model", str(CHECKPOINTS[checkpoint]), "--store", str(store), *options]
            subprocess.run(command, check=True, timeout=DEADLINE)
            (manifest,) = store.glob("*/*/*/*/manifest.json")
            built[key] = manifest.parent
        return built[key]

    return build


def give_template(name: str, template: str, folder: Path) -> None:
    """Make a checkpoint of that name: tiny-kjv with another chat template."""
    shutil.copytree(CHECKPOINTS["tiny-kjv"], folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    CHECKPOINTS[name] = folder


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """`with serve(engine, *options) as server:`."""
    return lambda engine, *options: serving(engine, tmp_path, *options)


@pytest.fixture(scope="session")
def kjv(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of tiny-kjv for tests that leave it as they find it."""
    with serving(engines("tiny-kjv"), tmp_path_factory.mktemp("kjv")) as server:
        yield server
