"""Manifests against golden files. To accept a change: set PITCREW_WRITE_GOLDENS=1 for one run."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

GOLDEN = Path(__file__).parent / "golden"


def assert_golden(name: str, document: Mapping[str, object]) -> None:
    """The document, as YAML, is the golden file's text."""
    text = yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("PITCREW_WRITE_GOLDENS"):
        path.write_text(text)
    assert text == path.read_text()
