"""What the command line says of adapters, and the library that comes of it."""

from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import BuildError
from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.adapters.library import AdapterLibrary
from pitcrew_runtime.adapters.weights import Room
from pitcrew_runtime.errors import InvalidOption, RequestError

MAX_IN_MEMORY = 16


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """How a server treats adapters."""

    modules: tuple[tuple[str, Path], ...] = ()
    """Names and directories of adapters that are there from the start."""
    root: Path | None = None
    """Where clients may load adapters from; None: they may not."""
    max_in_memory: int = MAX_IN_MEMORY


def open_library(manifest: Manifest, base: str, settings: LoraSettings) -> AdapterLibrary | None:
    """The library, with the adapters of the command line; None for an engine that takes none.

    Raises `InvalidOption`.
    """
    room = Room.of(manifest)
    if room is None:
        _check_unused(settings)
        return None
    library = AdapterLibrary(room, settings.max_in_memory, base)
    for name, path in settings.modules:
        try:
            library.load(name, Directory.of(path))
        except (BuildError, RequestError) as error:
            raise InvalidOption(f"--lora-modules {name}={path}: {error}") from error
    return library


def _check_unused(settings: LoraSettings) -> None:
    given = [("--lora-modules", settings.modules), ("--enable-runtime-lora", settings.root)]
    for option, value in given:
        if value:
            raise InvalidOption(
                f"{option}: this engine takes no adapters; build it with a lora section, or leave "
                f"the option out"
            )
