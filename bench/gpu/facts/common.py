"""What the facts' scripts share: TensorRT by either of its names, building, and saying."""

import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

try:
    import tensorrt as trt
except ModuleNotFoundError:
    # The bindings alone: `tensorrt.plugin` wants the package's own name.
    import tensorrt_bindings as trt

    sys.modules["tensorrt"] = trt

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
LEVEL = int(os.environ.get("FACTS_LEVEL", "3"))
"""How long the builder searches for kernels, 0 to 5."""

SEVERITY = getattr(trt.Logger, os.environ.get("FACTS_LOG", "WARNING"))


class Fact:
    """Says one thing a line, and whether all that was checked held."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failed = 0
        print(f"== {name} (Python {platform.python_version()})", flush=True)

    def say(self, what: str, value: object) -> None:
        """An observation."""
        print(f"   {what}: {value}", flush=True)

    def check(self, what: str, holds: bool) -> None:
        """An expectation."""
        self._failed += not holds
        print(f"   {'yes' if holds else 'NO '} {what}", flush=True)

    def end(self) -> None:
        """Exit with 1 if something did not hold."""
        print(f"-- {self._name}: {'holds' if not self._failed else 'does not hold'}", flush=True)
        sys.exit(bool(self._failed))


def build(
    draw: Callable[[Any], None],
    profile: Mapping[str, Shapes],
    *,
    flags: tuple[Any, ...] = (),
    creation: tuple[Any, ...] = (),
    preview: tuple[Any, ...] = (),
) -> bytes:
    """The plan of a strongly typed network with one profile. Raises `RuntimeError`."""
    logger = trt.Logger(SEVERITY)
    builder = trt.Builder(logger)
    kinds = (trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED, *creation)
    network = builder.create_network(sum(1 << int(kind) for kind in kinds))
    draw(network)
    config = builder.create_builder_config()
    config.builder_optimization_level = LEVEL
    for flag in flags:
        config.set_flag(flag)
    for feature in preview:
        config.set_preview_feature(feature, True)
    if profile:
        native = builder.create_optimization_profile()
        for name, shapes in profile.items():
            native.set_shape(name, *shapes)
        config.add_optimization_profile(native)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT does not build the network; its log says why")
    return bytes(plan)


def opened(word: str) -> list[str]:
    """Names of the shared libraries of this process with `word` in them."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({Path(line.split()[-1]).name for line in lines if word in line})
