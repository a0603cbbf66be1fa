"""A session of ONNX Runtime on the CPU, fed and read by names.

What is kept from run to run, pools and adapter slots, is bound once and read in place; every run
binds its small inputs, and outputs may go straight into arrays of the caller.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pitcrew_runtime.errors import EngineIncompatible
from pitcrew_runtime.execution.huge_pages import ask_for_huge_pages

Array = NDArray[Any]
Session = Any
"""Of onnxruntime, which has no types."""

_AWAKE_US = "50"
"""Longer than what one thread does alone between two nodes that all of them compute."""

_FLOAT8_E4M3FN = 17
"""The value of ONNX's `TensorProto.DataType`; NumPy has no such type."""


def open_session(graph: Path, threads: int) -> Session:
    """Load a graph; raises `EngineIncompatible` where ONNX Runtime refuses it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Shapes change with every step: a plan of the memory for one shape would never be used again.
    options.enable_mem_pattern = False
    # Waking a thread takes longer than most nodes of a small network do, so threads wait awake for
    # the next node; not for the next run, which would steal the CPU from HTTP and from neighbours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", _AWAKE_US)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Matrices that are stored as halves are widened here, and not in every run, whatever their size.
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(1 << 62)
    )
    try:
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineIncompatible(
            f"ONNX Runtime {ort.__version__} cannot load {graph.name}: {error}; build the engine "
            "anew with this release of Pitcrew"
        ) from error
    ask_for_huge_pages()
    return session


def check_inputs(has: set[str], wants: set[str]) -> None:
    """Raises `EngineIncompatible` where a graph has other inputs than it will be given."""
    if has != wants:
        raise EngineIncompatible(
            f"the graph's inputs differ from its manifest's: missing {sorted(wants - has)}, "
            f"unexpected {sorted(has - wants)}; build the engine anew"
        )


class Program:
    """One session: what is `kept` it reads in place, all else it is given by name."""

    def __init__(
        self, session: Session, kept: Mapping[str, Array], wanted: Collection[str] | None = None
    ) -> None:
        """Of the outputs it gives the `wanted` ones; None: all."""
        import onnxruntime as ort

        self._session = session
        self._binding = session.io_binding()
        self._value = ort.OrtValue.ortvalue_from_numpy
        self.inputs = [tensor.name for tensor in session.get_inputs()]
        outputs = [tensor.name for tensor in session.get_outputs()]
        self.outputs = [name for name in outputs if wanted is None or name in wanted]
        self._given = [name for name in self.inputs if name not in kept]
        self._bound = {name: self._value(kept[name]) for name in self.inputs if name in kept}
        for name, value in self._bound.items():
            self._binding.bind_ortvalue_input(name, value)

    def width(self, output: str) -> int:
        """The last dimension of an output that tells its own."""
        shapes = {tensor.name: tensor.shape for tensor in self._session.get_outputs()}
        return int(shapes[output][-1])

    def bound(self, values: Mapping[str, Array], into: Mapping[str, Any]) -> Callable[[], None]:
        """A run that reads the same arrays and writes the same values of the caller each time.

        Binding takes as long as a small network's step, so what stays in place is bound once.
        """
        binding = self._session.io_binding()
        given = {name: self._value(values[name]) for name in self._given}
        for name, value in (self._bound | given).items():
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_ortvalue_output(name, into[name])
        held = (given, dict(into))

        def run(held: object = held) -> None:
            self._session.run_with_iobinding(binding)

        return run

    def run(self, values: Mapping[str, Array], into: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs by name, without those that were written `into` values of the caller."""
        for name in self._given:
            self._binding.bind_ortvalue_input(name, self._value(values[name]))
        for name in self.outputs:
            if name in into:
                self._binding.bind_ortvalue_output(name, into[name])
            else:
                self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        results = self._binding.get_outputs()
        return {
            name: value.numpy()
            for name, value in zip(self.outputs, results, strict=True)
            if name not in into
        }


def new_name(pool: str) -> str:
    """The output that belongs to a pool."""
    return pool.replace("key_pool", "new_keys").replace("value_pool", "new_values")


def wrapper_of_new(kv_dtype: str) -> Callable[[Array], Any]:
    """What makes an array of ours one that the graph writes new keys or values into."""
    import onnxruntime as ort

    if kv_dtype == "float8_e4m3fn":
        typed = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
        return lambda array: typed(array, _FLOAT8_E4M3FN)
    plain: Callable[[Array], Any] = ort.OrtValue.ortvalue_from_numpy
    return plain
