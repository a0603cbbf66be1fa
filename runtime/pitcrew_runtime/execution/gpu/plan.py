"""Plans of TensorRT, opened on a GPU: one execution context for each of their profiles.

The contexts run one after the other, so they share the memory for activations.
"""

import importlib
import logging
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pitcrew_builder.manifest import Manifest
from pitcrew_builder.spec import Target
from pitcrew_runtime.errors import EngineIncompatible
from pitcrew_runtime.execution.gpu.device import Gpu, Native

logger = logging.getLogger(__name__)

PREFILL, DECODE = 0, 1
"""The profiles, as a plan numbers them."""

_MODULES = ("tensorrt", "tensorrt_bindings")


class Program(Protocol):
    """What computes a run's logits, and new keys and values."""

    @property
    def inputs(self) -> set[str]:
        """Their names."""
        ...

    def place(
        self,
        profile: int,
        addresses: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Where tensors lie in the next runs by a profile, and of what shape inputs are."""
        ...

    def enqueue(self, profile: int) -> None:
        """Run it. Raises `RuntimeError`."""
        ...

    def close(self) -> None:
        """Let libraries free what they hold."""
        ...


class SinglePlan(Program, Protocol):
    """One of several that run one after the other."""

    @property
    def outputs(self) -> set[str]:
        """Their names."""
        ...


class Library:
    """TensorRT, as an engine's plans want it. Raises `EngineIncompatible` where they cannot run here."""

    def __init__(self, manifest: Manifest, gpu: Gpu) -> None:
        self._trt = _library(manifest)
        check_fits(manifest, self._trt.__version__, gpu.capability)
        self._gpu, self._tag = gpu, manifest.tag
        self._log = _log(self._trt)
        # The library wants it to live as long as what it opened.
        self._runtime = self._trt.Runtime(self._log)

    def open(self, paths: Sequence[Path]) -> "list[Plan]":
        """Plans that run one after the other, over one memory for activations.

        Raises `EngineIncompatible` and `NotEnoughMemory`.
        """
        engines = [self._opened(path) for path in paths]
        size = max(map(_activations, engines))
        memory = self._gpu.zeros(size, "memory for activations")
        plans = [Plan(self, engine, self._gpu, self._trt, (memory, size)) for engine in engines]
        self._gpu.wait()
        logger.info("%d plan(s) with %d MiB for activations", len(plans), size >> 20)
        return plans

    def _opened(self, path: Path) -> Native:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineIncompatible(
                f"engine {self._tag}: TensorRT {self._trt.__version__} does not open its plan: "
                f"{'; '.join(self._log.problems) or 'it does not say why'}; build the engine anew on "
                "this GPU"
            )
        return engine


class Plan:
    """Runs on the stream of `gpu`, by a context for each profile, with the given address and size for
    activations.
    """

    def __init__(
        self, library: Library, engine: Native, gpu: Gpu, trt: Native, memory: tuple[int, int]
    ) -> None:
        self._library, self._engine, self._gpu = library, engine, gpu
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        profiles = range(engine.num_optimization_profiles)
        self._contexts = [engine.create_execution_context(managed) for _ in profiles]
        for profile, context in enumerate(self._contexts):
            context.set_optimization_profile_async(profile, gpu.stream)
            context.set_device_memory(*memory)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = {name for name in names if engine.get_tensor_mode(name).name == "INPUT"}
        self.outputs = set(names) - self.inputs

    def close(self) -> None:
        """Let the library free what it holds."""
        self._contexts.clear()
        del self._engine, self._library

    def place(
        self,
        profile: int,
        addresses: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        """See `Program`."""
        context = self._contexts[profile]
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise RuntimeError(f"TensorRT does not take an address for {name}")
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise RuntimeError(f"shape {shape} of {name} is outside of profile {profile}")

    def enqueue(self, profile: int) -> None:
        """See `Program`: what is returned has to be looked at, or failures pass unseen."""
        if not self._contexts[profile].execute_async_v3(self._gpu.stream):
            raise RuntimeError("TensorRT did not run a plan; the log says why")


def _activations(engine: Native) -> int:
    profiles = range(engine.num_optimization_profiles)
    return max(int(engine.get_device_memory_size_for_profile_v2(each)) for each in profiles)


def check_fits(manifest: Manifest, version: str, capability: str) -> None:
    """Raise `EngineIncompatible` unless a plan is of this version of TensorRT and for this GPU."""
    identity = manifest.identity
    built = identity.toolchain.get(Target.TENSORRT.value)
    if built != version:
        raise EngineIncompatible(
            f"engine {manifest.tag} is a plan of TensorRT {built}, and {version} is installed: use "
            "builder and runtime images with one version, or build the engine again"
        )
    assert identity.tensorrt is not None, "a plan's identity has its options"
    wanted = identity.tensorrt.compute_capability.value
    if wanted != capability:
        raise EngineIncompatible(
            f"engine {manifest.tag} is a plan for {wanted}, and the GPU here is {capability}: choose "
            f"nodes with the other GPU, or build with tensorrt.computeCapability {capability}"
        )


def _library(manifest: Manifest) -> Native:
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A module of its own that is missing is a broken installation, not another name.
            if error.name != name:
                raise _missing(manifest, f"cannot be loaded ({error})") from error
        except (ImportError, OSError) as error:
            raise _missing(manifest, f"cannot be loaded ({error})") from error
    raise _missing(manifest, "is not installed")


def _missing(manifest: Manifest, what: str) -> EngineIncompatible:
    return EngineIncompatible(
        f"engine {manifest.tag} is a plan of TensorRT, which {what}: use a runtime image with "
        "pitcrew[tensorrt], or build for target onnxruntime-cpu"
    )


def _log(trt: Native) -> Native:
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
    }

    class Log(trt.ILogger):  # type: ignore[misc]
        """Hands on what the library says, and keeps what went wrong last."""

        def __init__(self) -> None:
            super().__init__()
            self.problems: list[str] = []

        def log(self, severity: Native, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            logger.log(level, "TensorRT: %s", message)
            if level == logging.ERROR:
                self.problems = [*self.problems[-2:], message]

    return Log()
