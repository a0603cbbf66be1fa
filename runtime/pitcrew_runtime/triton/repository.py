"""Writes a model repository that needs nothing of this machine: engine, program, configuration.

    REPO/NAME/config.pbtxt
    REPO/NAME/requirements.txt      what the server's Python needs
    REPO/NAME/1/model.py
    REPO/NAME/1/engine/             a copy, or a link
    REPO/NAME/1/packages/           Pitcrew itself

A model appears when it is complete, or not at all.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pitcrew_builder
import pitcrew_runtime
from pitcrew_builder import __version__
from pitcrew_builder.manifest import MANIFEST_NAME
from pitcrew_runtime.engine_directory import EngineDirectory
from pitcrew_runtime.errors import InvalidOption
from pitcrew_runtime.triton.configuration import ENGINE, configuration

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OF_THE_BACKEND = {"numpy": "numpy>=1.26,<2"}
"""What Triton's Python backends were compiled against; newer ones read both."""
_MODEL = f'''"""Serves the engine beside this file. Written by pitcrew-export {__version__}."""

import os
import sys
from pathlib import Path

_PACKAGES = str(Path(__file__).resolve().parent / "packages")
sys.path.insert(0, _PACKAGES)
# The ranks of a split engine are processes of their own.
os.environ["PYTHONPATH"] = os.pathsep.join(
    path for path in (_PACKAGES, os.environ.get("PYTHONPATH")) if path
)

from pitcrew_runtime.triton.model import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True, slots=True)
class Export:
    """What a model is to be."""

    name: str
    engine: EngineDirectory
    options: Mapping[str, str]
    """Those of `pitcrew-serve`, for `config.pbtxt`."""
    max_batch_size: int
    link: bool
    """The engine stays where it is, and the repository points to it."""


def write(export: Export, repository: Path) -> Path:
    """The model's directory. Raises `InvalidOption` where it cannot be written, or is there."""
    target = repository / export.name
    if _NAME.fullmatch(export.name) is None:
        raise InvalidOption(
            f"--name {export.name!r}: use 1 to 128 letters, digits, dots, dashes and underscores"
        )
    if target.exists():
        raise InvalidOption(f"--output: {target} is there already; remove it, or choose a --name")
    try:
        repository.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{export.name}-", dir=repository))
        try:
            _fill(export, temporary)
            temporary.chmod(0o755)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InvalidOption(f"--output {repository}: {error.strerror or error}") from error
    return target


def requirements() -> Iterator[str]:
    """The packages that serving needs, each in the version that is installed here."""
    for line in metadata.requires("pitcrew") or ():
        name, _, marker = line.partition(";")
        if not marker or 'extra == "runtime"' in marker.replace("'", '"'):
            package = re.split(r"[^A-Za-z0-9._-]", name.strip())[0]
            yield _OF_THE_BACKEND.get(package) or f"{package}=={metadata.version(package)}"


def _fill(export: Export, into: Path) -> None:
    version = into / "1"
    version.mkdir()
    parameters = {ENGINE: ENGINE, **export.options}
    text = configuration(export.name, parameters, export.max_batch_size)
    (into / "config.pbtxt").write_text(text, encoding="utf-8")
    (into / "requirements.txt").write_text("".join(f"{one}\n" for one in requirements()))
    (version / "model.py").write_text(_MODEL)
    _place_engine(export, version / ENGINE)
    for package in (pitcrew_builder, pitcrew_runtime):
        source = Path(package.__path__[0])
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, version / "packages" / source.name, ignore=ignored)


def _place_engine(export: Export, into: Path) -> None:
    root = export.engine.root.resolve()
    if export.link:
        into.symlink_to(root)
        return
    for name in (MANIFEST_NAME, *(entry.path for entry in export.engine.manifest.files)):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, into / name)
