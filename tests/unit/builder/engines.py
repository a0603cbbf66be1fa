"""Engines, built once and run in float32 throughout."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pitcrew_builder.manifest import Manifest
from pitcrew_builder.network import open_network
from pitcrew_builder.paged_runner import PagedRunner
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import BuildSpec

PROMPT = [5, 17, 3, 80, 41, 2, 9, 66, 30, 12]
STEPS = 8


class Engine:
    """A built engine, run in float32 throughout."""

    def __init__(self, root: Path, checkpoint: Path, **spec: object) -> None:
        source = {"kind": "local", "path": str(checkpoint), "name": checkpoint.name}
        self.checkpoint = checkpoint
        self.spec = BuildSpec.model_validate({"source": source, **spec})
        done = build(self.spec, Places(root / "store", root / "cache"), Tracker(lambda _: None))
        self.path = root / "store" / done.path
        text = (self.path / "manifest.json").read_text()
        self.manifest = Manifest.model_validate_json(text)

    def logits(self) -> tuple[npt.NDArray[np.float32], list[int]]:
        """Of the prompt's last token and each token after it, and those tokens, the likeliest."""
        network = open_network([(self.path, rank) for rank in self.manifest.ranks])
        page, total = self.manifest.identity.shapes.kv_page_size, len(PROMPT) + STEPS
        runner = PagedRunner(network, self.manifest.model, page, capacity=total)
        found, tokens = [runner.extend(PROMPT)[-1]], []
        for _ in range(STEPS):
            tokens.append(int(found[-1].argmax()))
            found.append(runner.extend(tokens[-1:])[-1])
        return np.stack(found), tokens
