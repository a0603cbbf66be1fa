"""Builds plans through the command line, as the build Job does."""

import json
from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.cli import main
from pitcrew_builder.manifest import Manifest
from pitcrew_builder.report import Failed, Succeeded, parse_outcome
from pitcrew_builder.store import open_engine

ROOT = Path(__file__).parents[3]
GOLDENS = ROOT / "tests/golden/data"
SAMPLE = ROOT / "samples/models/tiny-kjv"


@dataclass(frozen=True)
class Workshop:
    """One store and one cache."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    def arguments(self, checkpoint: Path, **spec: object) -> list[str]:
        """The command for a plan of a checkpoint; `spec` adds to the spec's document."""
        document = {
            "source": {"kind": "local", "path": str(checkpoint), "name": checkpoint.name},
            "shapes": {"maxBatchSize": 2, "maxSequenceLength": 64, "kvPageSize": 8},
        } | spec
        places = ["--store", str(self.store), "--cache", str(self.root / "cache")]
        return ["build", "--spec-json", json.dumps(document), *places, *self._told]

    def build(self, checkpoint: Path, **spec: object) -> Succeeded | Failed:
        main(self.arguments(checkpoint, **spec))
        return self.outcome()

    def publish(self, checkpoint: Path, **spec: object) -> tuple[Path, Manifest]:
        """Build and open what was published."""
        outcome = self.build(checkpoint, **spec)
        assert isinstance(outcome, Succeeded), outcome
        return self.store / outcome.path, open_engine(self.store / outcome.path)

    def outcome(self) -> Succeeded | Failed:
        parsed = parse_outcome((self.root / "outcome.json").read_text())
        assert parsed is not None
        return parsed

    @property
    def _told(self) -> list[str]:
        return ["--outcome", str(self.root / "outcome.json"), "--progress", "json"]


def rtx(precision: str = "fp16", capability: str = "sm89", **options: object) -> dict[str, object]:
    """The part of a spec that asks for TensorRT-RTX."""
    return {
        "target": "tensorrt-rtx",
        "precision": precision,
        "tensorrt": {"computeCapability": capability, **options},
    }
