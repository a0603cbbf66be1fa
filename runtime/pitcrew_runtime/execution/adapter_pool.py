"""The graph's adapter slots: stacked matrices that the session reads in place.

Slot 0 stays zero. A slot is written only when another adapter has to be in it; the pool itself knows
what lies where, so a step that failed half-way leaves no slot that is taken for something it is not.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import ADAPTER_SLOTS, LoraTarget
from pitcrew_runtime.adapters.weights import LoraWeights, LowRank
from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.errors import NotEnoughMemory
from pitcrew_runtime.execution.memory import resident_zeros

Array = NDArray[np.float32]


class AdapterPool:
    """`count` slots beside slot 0, for the part of the network that a rank computes."""

    def __init__(self, targets: Sequence[LoraTarget], count: int, rank: int) -> None:
        self._targets = targets
        self._lies: dict[int, str] = {}
        try:
            self.arrays: dict[str, Array] = {
                name: resident_zeros(dims, np.dtype(np.float32))
                for target in targets
                for name, dims in (
                    (target.down, (count + 1, rank, target.inputs)),
                    (target.up, (count + 1, target.outputs, rank)),
                )
            }
        except MemoryError as error:
            raise NotEnoughMemory(
                f"{count} adapter slots could not be allocated: lower --max-loras"
            ) from error

    @property
    def inputs(self) -> Sequence[str]:
        """The graph's inputs for adapters."""
        return [ADAPTER_SLOTS, *self.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(array.nbytes for array in self.arrays.values())

    def hold(self, adapters: Mapping[int, Adapter]) -> None:
        """See to it that each slot has its adapter."""
        for slot, adapter in adapters.items():
            if self._lies.get(slot) != adapter.identity:
                assert isinstance(adapter, LoraWeights)
                self._lies.pop(slot, None)
                self._write(slot, adapter)
                self._lies[slot] = adapter.identity

    def _write(self, slot: int, adapter: LoraWeights) -> None:
        for target in self._targets:
            down, up = self.arrays[target.down][slot], self.arrays[target.up][slot]
            change = adapter.changes.get(target.module)
            used = change.rank if change else 0
            down[used:], up[:, used:] = 0.0, 0.0
            if change is not None:
                down[:used], up[:, :used] = _part(change, target)


def _part(change: LowRank, target: LoraTarget) -> tuple[Array, Array]:
    inputs = slice(target.first_input, target.first_input + target.inputs)
    outputs = slice(target.first_output, target.first_output + target.outputs)
    return change.down[:, inputs], change.up[outputs]
