"""What the facts' scripts share: TensorRT by either of its names, building, and saying."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parents[1]))

try:
    import tensorrt as trt
except ModuleNotFoundError:
    # The bindings alone: `tensorrt.plugin` wants the package's own name.
    import tensorrt_bindings as trt

    sys.modules["tensorrt"] = trt

Native: TypeAlias = Any
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
LEVEL = int(os.environ.get("FACTS_LEVEL", "3"))
"""How long the builder searches for kernels, 0 to 5."""

COMPATIBILITY = os.environ.get("FACTS_COMPATIBILITY", "NONE")
"""Which other GPUs a plan is to run on: `NONE`, `SAME_COMPUTE_CAPABILITY` or `AMPERE_PLUS`."""

SEVERITY = getattr(trt.Logger, os.environ.get("FACTS_LOG", "WARNING"))


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
    config = configuration(builder)
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


def configuration(builder: Native) -> Native:
    """With the level and the compatibility that the environment asks for."""
    config = builder.create_builder_config()
    config.builder_optimization_level = LEVEL
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, COMPATIBILITY)
    return config


def opened(word: str) -> list[str]:
    """Names of the shared libraries of this process with `word` in them."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({Path(line.split()[-1]).name for line in lines if word in line})
