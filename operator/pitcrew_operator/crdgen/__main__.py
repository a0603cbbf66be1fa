"""Write the CRDs where they are kept, or check that they are there: `python -m ... [--check]`."""

import argparse
import sys
from pathlib import Path

import yaml

from pitcrew_operator.crdgen.crd import DEFINITIONS, Definition, manifest

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (ROOT / "crds", ROOT / "helm" / "pitcrew" / "files" / "crds")
_HEADER = "# Generated from pitcrew_operator.api by `python -m pitcrew_operator.crdgen`.\n"


def render(definition: Definition) -> str:
    """The exact text of one CRD file."""
    body = yaml.safe_dump(manifest(definition), sort_keys=False, width=100, allow_unicode=True)
    return _HEADER + body


def expected_files() -> dict[Path, str]:
    """Every file that must exist, with its text."""
    return {
        folder / f"{definition.name}.yaml": render(definition)
        for folder in FOLDERS
        for definition in DEFINITIONS
    }


def stale_files() -> list[Path]:
    """Files that are missing or differ from what the models generate."""
    return [
        path
        for path, text in expected_files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when all is well, 1 when `--check` found a stale file."""
    parser = argparse.ArgumentParser(prog="python -m pitcrew_operator.crdgen")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if stale")
    stale = stale_files()
    if parser.parse_args(argv).check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run python -m pitcrew_operator.crdgen")
        return 1 if stale else 0
    files = expected_files()
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
