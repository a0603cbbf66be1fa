"""From an ONNX file to a plan: parse, configure, compile; cancelled between two of its steps."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

from pitcrew_builder.errors import CompilationFailed
from pitcrew_builder.manifest import PlanProfile
from pitcrew_builder.spec import TensorRt, Verbosity
from pitcrew_builder.targets.trt.library import Native
from pitcrew_builder.targets.trt.monitor import monitor_for

Result = TypeVar("Result")

PROBLEMS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Order:
    """What to compile."""

    graph: Path
    plan: Path
    profiles: tuple[PlanProfile, ...]
    options: TensorRt
    name: str
    """For messages."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of it."""

    layers: tuple[str, ...]
    """The metadata of each layer that is no constant; it names the graph's node it came from."""


class Compiler:
    """TensorRT or TensorRT-RTX. Subclasses say what one of them wants of its own."""

    def __init__(self, library: Native) -> None:
        self._library = library
        self._tools: tuple[Native, Native] | None = None

    def compile(self, order: Order, advance: Callable[[float], None]) -> Compiled:
        """Write the plan. Raises `CompilationFailed`; on a KeyboardInterrupt stops and passes it on.

        The compiler runs in a thread of its own, because a signal reaches Python in the main one
        alone, which must not sit inside the compiler then.
        """
        cancelled = Event()
        return _interruptible(lambda: self._compile(order, advance, cancelled), cancelled)

    def prepare(self, logger: Native) -> None:
        """What must happen once before a network is parsed."""

    @contextmanager
    def configured(self, config: Native, options: TensorRt) -> Iterator[None]:
        """Options of this library alone, for the time of one compilation."""
        yield

    def _compile(
        self, order: Order, advance: Callable[[float], None], cancelled: Event
    ) -> Compiled:
        logger, builder = self._logger_and_builder(order.options.verbosity)
        network = builder.create_network(_flags(self._library))
        # The parser owns the weights that the network points to: it must outlive compilation.
        parser = self._library.OnnxParser(network, logger)
        _parse(parser, order)
        _allow_any_attention(self._library, network)
        config = builder.create_builder_config()
        config.progress_monitor = monitor_for(self._library, advance, cancelled)
        _configure(self._library, builder, config, order)
        with self.configured(config, order.options):
            plan = builder.build_serialized_network(network, config)
        if cancelled.is_set():
            raise KeyboardInterrupt
        if plan is None:
            raise _failed(order, "compile", logger.problems)
        order.plan.write_bytes(memoryview(plan))
        return Compiled(tuple(_layers(self._library, network)))

    def _logger_and_builder(self, verbosity: Verbosity) -> tuple[Native, Native]:
        """Made once: a rank that is split has many plans, and a builder takes longer than most of them."""
        if self._tools is None:
            logger = _logger_for(self._library, verbosity)
            self.prepare(logger)
            builder = self._library.Builder(logger)
            builder.max_threads = len(os.sched_getaffinity(0))
            self._tools = logger, builder
        logger, builder = self._tools
        logger.problems.clear()
        return logger, builder


def _interruptible(work: Callable[[], Result], cancelled: Event) -> Result:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="compiler") as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            cancelled.set()
            raise


def _logger_for(library: Native, verbosity: Verbosity) -> Native:
    shown = getattr(library.ILogger, verbosity.name)

    class Logger(library.ILogger):  # type: ignore[misc]
        """Writes to standard error what is asked for, and keeps what went wrong."""

        def __init__(self) -> None:
            super().__init__()
            self.problems: list[str] = []

        def log(self, severity: Native, message: str) -> None:
            if severity <= library.ILogger.ERROR:
                self.problems.append(message)
            if severity <= shown:
                print(f"{library.__name__}: {message}", file=sys.stderr)

    return Logger()


def _flags(library: Native) -> int:
    """Types are those of the graph, never the compiler's choice. Newer versions know no other way."""
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(parser: Native, order: Order) -> None:
    if not parser.parse_from_file(str(order.graph)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise _failed(
            order, "read", [f"node '{error.node_name()}': {error.desc()}" for error in errors]
        )


def _allow_any_attention(library: Native, network: Native) -> None:
    """Attention of a shape that no fused kernel has is computed by several: slow beats refused."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == library.LayerType.ATTENTION_INPUT:
            # The bindings hand out the base class alone.
            layer.__class__ = library.IAttentionInputLayer
            layer.attention.decomposable = True


def _configure(library: Native, builder: Native, config: Native, order: Order) -> None:
    options = order.options
    config.builder_optimization_level = options.optimization_level
    # Tells in the plan which nodes a kernel computes.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    for profile in order.profiles:
        native = builder.create_optimization_profile()
        for name, (least, usual, most) in profile.shapes.items():
            native.set_shape(name, least, usual, most)
        if config.add_optimization_profile(native) < 0:
            raise _failed(order, "accept", [f"the shapes of profile {profile.name}"])


def _layers(library: Native, network: Native) -> Iterator[str]:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type != library.LayerType.CONSTANT:
            yield layer.metadata


def _failed(order: Order, verb: str, problems: list[str]) -> CompilationFailed:
    told = "; ".join(problems[:PROBLEMS_SHOWN]) or "it does not say why"
    return CompilationFailed(
        f"the compiler does not {verb} {order.name}: {told}; try another precision or target, or "
        f"set tensorrt.verbosity to verbose and report the log as a bug"
    )
