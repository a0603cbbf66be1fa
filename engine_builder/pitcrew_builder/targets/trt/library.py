"""The two TensorRT libraries: where each comes from, and its module once it is needed."""

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.spec import Target

Native: TypeAlias = Any
"""A module or an object of the library, which has no types."""


@dataclass(frozen=True, slots=True)
class Library:
    """One library, by its names in Python."""

    target: Target
    label: str
    """Short, for tags."""

    modules: tuple[str, ...]
    """Names it may be imported by, the first that exists counts."""

    distributions: tuple[str, ...]
    """Packages that tell its version, likewise."""

    remedy: str

    def version(self) -> str:
        """The installed version, read without loading anything. Raises `InvalidSpec`."""
        for name in self.distributions:
            try:
                return version(name)
            except PackageNotFoundError:
                continue
        raise self._missing("is not installed")

    def load(self) -> Native:
        """The module. Hundreds of MiB: call it when a plan is compiled. Raises `InvalidSpec`."""
        for name in self.modules:
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                # A module of its own that is missing is a broken installation, not another name.
                if error.name != name:
                    raise self._missing(f"cannot be loaded ({error})") from error
            except (ImportError, OSError) as error:
                raise self._missing(f"cannot be loaded ({error})") from error
        raise self._missing("is not installed")

    def _missing(self, what: str) -> InvalidSpec:
        return InvalidSpec(
            f"target {self.target} needs the package {self.distributions[0]}, which {what}; "
            f"{self.remedy}"
        )


RTX = Library(
    target=Target.TENSORRT_RTX,
    label="rtx",
    modules=("tensorrt_rtx_bindings",),
    distributions=("tensorrt-rtx-cu13-bindings",),
    remedy="install pitcrew[tensorrt-rtx] on Linux x86-64, or choose another target",
)

TENSORRT = Library(
    target=Target.TENSORRT,
    label="trt",
    modules=("tensorrt", "tensorrt_bindings"),
    distributions=("tensorrt-cu13", "tensorrt-cu13-bindings"),
    remedy="build in the Job, on a GPU, with a builder image that holds CUDA and pitcrew[tensorrt]",
)
