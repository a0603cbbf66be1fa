"""One rank's narrow matrices: its part of each whole one, laid out for the graph and written down."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pitcrew_builder.checkpoint.coded import Coded, Floats
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.graph.ir import ElementType, Value, Weight
from pitcrew_builder.quantize.arrange import Arranged, arrange
from pitcrew_builder.quantize.cut import cuts
from pitcrew_builder.quantize.grid import packed
from pitcrew_builder.quantize.rewrite import Narrow, rewrite
from pitcrew_builder.quantize.scratch import Scratch
from pitcrew_builder.quantize.sites import Site
from pitcrew_builder.targets.target import Network


class RankWriter:
    """Takes whole matrices one by one, and gives the rank's narrow network in the end."""

    def __init__(self, network: Network, whole: Sequence[Site], scratch: Scratch) -> None:
        """`whole` are the sites of the network that is not split."""
        self._network = network
        self._cuts = cuts(whole, network.graph)
        self._scratch = scratch
        self._narrow: list[Narrow] = []
        self._norms: dict[Value, Weight] = {}

    def take(self, number: int, coded: Coded) -> None:
        """Write the rank's part of the whole site `number`, if it has one."""
        cut = self._cuts.get(number)
        if cut is None:
            return
        part = cut.of(coded)
        narrow = self._stack if cut.site.weight.stacked else self._matrix
        written = narrow(cut.site, arrange(part), part.type)
        self._narrow.append(
            replace(written, divisors=part.multipliers, input_scale=part.input_scale)
        )

    def norm(self, name: Value, values: Floats) -> None:
        """Replace the weight of a norm, where the rank has it."""
        if any(weight.name == name for weight in self._network.graph.weights):
            self._norms[name] = self._scratch.floats(f"{name}/scaled", values)

    def network(self) -> Network:
        """The rank with everything that was taken."""
        tensors: Mapping[str, TensorInfo] = {**self._network.tensors, **self._scratch.tensors}
        graph = rewrite(self._network.graph, self._narrow, self._norms)
        return replace(self._network, graph=graph, tensors=tensors)

    def _matrix(self, site: Site, found: Arranged, kind: ElementType) -> Narrow:
        name = site.weight.name
        transposed = kind is not ElementType.FLOAT8
        codes, scales, zeros = found.codes, found.scales, None
        if found.zeros is not None:
            zeros = self._scratch.floats(f"{name}/zeros", -found.zeros * found.scales)
        if transposed:
            codes, scales = codes.T, scales.T
        # Four bits are a type of blocks; TensorRT unfolds a matrix that has none.
        blocked = found.block < found.codes.shape[1] or kind is ElementType.INT4
        return Narrow(
            site,
            self._scratch.raw(f"{name}/codes", kind, codes.shape, packed(codes, kind)),
            self._scratch.floats(f"{name}/scales", scales if blocked else scales.reshape(-1)),
            found.block if blocked else 0,
            transposed,
            zeros,
            found.order,
        )

    def _stack(self, site: Site, found: Arranged, kind: ElementType) -> Narrow:
        if found.order is not None:
            raise InvalidSpec(
                f"parallelism.tensor: a rank's part of '{site.weight.name}' has {site.inputs} "
                f"inputs, which cut through the blocks that share a scale; lower "
                f"parallelism.tensor, or split the experts with parallelism.expert"
            )
        name, experts = site.weight.name, site.experts

        def by_inputs(matrix: Floats) -> Floats:
            """[experts * outputs, n] as [experts, n, outputs]."""
            return matrix.reshape(experts, -1, matrix.shape[1]).transpose(0, 2, 1)

        codes = by_inputs(found.codes)
        zeros = None
        if found.zeros is not None:
            added = by_inputs(-found.zeros * found.scales)[:, :, np.newaxis]
            zeros = self._scratch.floats(f"{name}/zeros", added)
        return Narrow(
            site,
            self._scratch.raw(f"{name}/codes", kind, codes.shape, packed(codes, kind)),
            self._scratch.floats(f"{name}/scales", by_inputs(found.scales)),
            found.block,
            transposed=True,
            zeros=zeros,
        )
