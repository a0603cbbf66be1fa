"""Running an engine's graphs on the CPU as one network, however many ranks it is split over.

A split network is run rank by rank and segment by segment, with real sums between them: what is
proven is what the ranks compute together. Seen from outside it takes and gives the tensors of
`manifest.GraphInterface` for the whole network. It serves the proof of a build, not users.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.errors import ValidationFailed
from pitcrew_builder.manifest import (
    ADAPTER_SLOTS,
    LORA_A,
    LORA_B,
    Exchange,
    GraphInterface,
    Placement,
)

if TYPE_CHECKING:
    import onnxruntime

Tensor: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = Mapping[str, Tensor]

_HEADS = 2
"""The axis of KV heads, in pools and in new keys and values alike."""


_FOLD_ALL = ("optimization.constant_folding_max_output_size_in_bytes", str(1 << 62))
"""Matrices that are stored as halves are widened once; by itself ONNX Runtime would widen those of
more than 1 GiB in every run.
"""

_NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
"""By ONNX Runtime's names, those that pools may have on a CPU."""


class Network(Protocol):
    """Anything that computes the outputs of `manifest.GraphInterface` from its inputs."""

    @property
    def pool_dtype(self) -> np.dtype[Any]:
        """What an element of its KV pools is in NumPy."""
        ...

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        """All outputs by name. Raises `ValidationFailed`."""
        ...


def open_network(ranks: Sequence[tuple[Path, GraphInterface]], *, packed: bool = False) -> Network:
    """The network of all ranks, each with what its paths are relative to.

    `packed` takes the memory to run it exactly as it is served: ONNX Runtime rounds activations
    for packed quantized matrices alone. Raises `ValidationFailed`.
    """
    if len(ranks) == 1:
        root, interface = ranks[0]
        return Executable(root / interface.whole, packed=packed)
    return SplitNetwork([_Rank(root, interface, packed=packed) for root, interface in ranks])


def open_served(
    ranks: Sequence[tuple[Path, GraphInterface]], *, packed: bool = False
) -> "Executable | None":
    """The form with contexts, None where there is none: then what is served is `open_network`'s."""
    root, interface = ranks[0]
    if interface.contiguous is None:
        return None
    return Executable(root / interface.contiguous, packed=packed)


class Executable:
    """One graph file."""

    def __init__(self, graph: Path, *, packed: bool = False) -> None:
        self._session = _open(graph, packed)
        self._inputs = [item.name for item in self._session.get_inputs()]
        self._outputs = [item.name for item in self._session.get_outputs()]
        self._no_adapter = {
            item.name: np.zeros([1, *item.shape[1:]], np.float32)
            for item in self._session.get_inputs()
            if item.name.startswith((LORA_A, LORA_B))
        }

    @property
    def pool_dtype(self) -> np.dtype[Any]:
        """See `Network`."""
        return _pool_dtype([self])

    @property
    def pool_types(self) -> list[str]:
        """The types of the pools that it reads, as ONNX Runtime calls them."""
        return [item.type for item in self._session.get_inputs() if "_pool." in item.name]

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        """The graph's outputs; of `inputs` it takes what it knows. No sequence has an adapter."""
        slots = {ADAPTER_SLOTS: np.zeros_like(inputs["context_lengths"])}
        known = {**self._no_adapter, **slots, **inputs}
        feeds = {name: known[name] for name in self._inputs}
        try:
            outputs = self._session.run(self._outputs, feeds)
        except Exception as error:
            raise _failed("run", error) from error
        return dict(zip(self._outputs, outputs, strict=True))


class SplitNetwork:
    """The ranks of one engine, in one process."""

    def __init__(self, ranks: "list[_Rank]") -> None:
        self._ranks = ranks
        self._stages = 1 + max(rank.placement.pipeline for rank in ranks)

    @property
    def pool_dtype(self) -> np.dtype[Any]:
        """See `Network`."""
        return _pool_dtype(self._ranks[0].programs)

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        """The whole network's outputs: new keys and values of all heads of all layers, and logits."""
        values = [rank.own(inputs) for rank in self._ranks]
        for stage in range(self._stages):
            self._run_stage(stage, values)
            self._hand_over(stage, values)
        return self._gather(values)

    def _run_stage(self, stage: int, values: list[dict[str, Tensor]]) -> None:
        members = [i for i, r in enumerate(self._ranks) if r.placement.pipeline == stage]
        for step, exchanges in enumerate(self._ranks[members[0]].exchanges):
            for member in members:
                values[member] |= self._ranks[member].programs[step].run(values[member])
            for index in range(len(exchanges)):
                _exchange([self._ranks[m].exchanges[step][index] for m in members], values)

    def _hand_over(self, stage: int, values: list[dict[str, Tensor]]) -> None:
        """Give the rows of each rank of a stage to the same place of the next one."""
        width = len(self._ranks) // self._stages
        for member in range(stage * width, (stage + 1) * width):
            following = member + width
            if following < len(values):
                name = f"rows.{self._ranks[following].placement.first_layer}"
                values[following][name] = values[member][name]

    def _gather(self, values: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        outputs = {"logits": values[-1]["logits"]}
        for kind in ("keys", "values"):
            heads: dict[str, dict[int, Tensor]] = {}
            for rank, own in zip(self._ranks, values, strict=True):
                for layer in rank.layers:
                    name = f"new_{kind}.{layer}"
                    heads.setdefault(name, {})[rank.placement.first_kv_head] = own[name]
            for name, parts in heads.items():
                outputs[name] = np.concatenate([parts[i] for i in sorted(parts)], axis=_HEADS)
        return outputs


class _Rank:
    """One rank's executables, with what follows each of them."""

    def __init__(self, root: Path, interface: GraphInterface, *, packed: bool) -> None:
        assert interface.placement is not None
        self.placement: Placement = interface.placement
        self.layers = range(
            self.placement.first_layer, self.placement.first_layer + self.placement.layers
        )
        self.programs = [Executable(root / part.graph, packed=packed) for part in interface.parts]
        self.exchanges = [part.exchanges for part in interface.parts]

    def own(self, inputs: Tensors) -> dict[str, Tensor]:
        """The inputs of the whole network, cut to this rank's KV heads."""
        first = self.placement.first_kv_head
        heads = slice(first, first + self.placement.kv_heads)
        return {
            name: np.ascontiguousarray(tensor[:, :, heads]) if "_pool." in name else tensor
            for name, tensor in inputs.items()
            if "_pool." not in name or int(name.rsplit(".", 1)[1]) in self.layers
        }


def _exchange(members: Sequence[Exchange], values: list[dict[str, Tensor]]) -> None:
    """Do the same exchange of every group of a stage."""
    for exchange in {member.group: member for member in members}.values():
        given = [values[rank][exchange.value] for rank in exchange.group]
        result = sum(given[1:], given[0])
        if exchange.operator == "AllGather":
            result = np.concatenate(given, axis=-1)
        for rank in exchange.group:
            values[rank][exchange.result] = result


def _open(graph: Path, packed: bool) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # A build shares its cores; threads that spin between two operators would take them all.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(*_FOLD_ALL)
    if not packed:
        # Packing would copy every matrix; the proof reads them as they are mapped from the file.
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _failed("load", error) from error


def _pool_dtype(programs: Sequence[Executable]) -> np.dtype[Any]:
    """What the parts of one rank agree on; some of them may attend to nothing."""
    (only,) = {kind for program in programs for kind in program.pool_types}
    return np.dtype(_NUMPY[only])


def _failed(verb: str, error: Exception) -> ValidationFailed:
    # The runtime's exceptions share no base class of their own.
    return ValidationFailed(
        f"ONNX Runtime does not {verb} the graph: {error}; please report this as a bug"
    )
