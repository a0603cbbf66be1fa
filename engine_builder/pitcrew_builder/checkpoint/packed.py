"""A pass over a drawn graph: matrices that the checkpoint holds packed become recipes of them.

The graph asks for `<module>.weight`; the tensors of a scheme have other names and shapes. Which
matrices are packed is seen from the tensors, or, where there are none to look at, from the config.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.checkpoint.scheme import Floats8, Integers, Scheme
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.graph.ir import Graph
from pitcrew_builder.graph.recipe import (
    Entry,
    Packed,
    PackedFloats,
    PackedIntegers,
    Packing,
    Source,
    TensorRef,
    map_tensors,
)

FP8, WORDS, INDICES = "F8_E4M3", ("I32",), ("I32", "I64")

_IN_LAYER = re.compile(r"(^|\.)layers\.\d+\..+")
_ROUTER = re.compile(r"\.(gate|router)$")

UNUSED = (
    r".+\.weight_shape",
    r".+\.g_idx",
    # Scales of a narrow KV cache, which an engine has where its own spec asks for one.
    r".+\.[kv]_scale",
    r".+\.output_scale",
    # Weights that are not rounded on the way in do not need them.
    r".+\.(input|activation)_scale(_ub)?",
)
"""Tensors of the schemes that an engine may do without."""


@dataclass(frozen=True, slots=True)
class Packer:
    """The scheme of one checkpoint, and its tensors if they are known."""

    scheme: Scheme
    found: Mapping[str, TensorInfo] | None = None

    def apply(self, graph: Graph) -> Graph:
        """The graph with packed recipes for packed matrices."""
        weights = [
            replace(weight, parts=tuple(map_tensors(part, self._packed) for part in weight.parts))
            for weight in graph.weights
        ]
        return replace(graph, weights=tuple(weights))

    def unused(self, wanted: Iterable[TensorRef]) -> Iterator[str]:
        """Patterns of the tensors that the checkpoint may carry beside what the graph reads.

        AutoGPTQ writes biases of maps that have none, full of zeros. Raises `CheckpointCorrupt` for
        one that is not.
        """
        yield from UNUSED
        read, found, form = {ref.name for ref in wanted}, self.found or {}, self.scheme.form
        if not isinstance(form, Integers):
            return
        with WeightReader() as reader:
            for name, info in found.items():
                module = name.removesuffix(".bias")
                if name in read or name == module or _codes_name(form.packing, module) not in found:
                    continue
                if any(chunk.any() for chunk in reader.chunks(info)):
                    raise CheckpointCorrupt(
                        f"config.json describes a network without {name}, and the tensor is not "
                        f"zero; take both from the same revision of the checkpoint"
                    )
                yield re.escape(name)

    def _packed(self, ref: TensorRef | Entry) -> Source:
        if isinstance(ref, Entry):
            return ref
        module = ref.name.removesuffix(".weight")
        if len(ref.shape) != 2 or module == ref.name or not self._is_packed(module):
            return ref
        form = self.scheme.form
        if isinstance(form, Floats8):
            return self._float8(form, module, ref)
        return self._integers(form, module, ref)

    def _is_packed(self, module: str) -> bool:
        if self.found is None:
            fit = _IN_LAYER.search(module) is not None and not _ROUTER.search(module)
            return fit and self.scheme.covers(module)
        if isinstance(self.scheme.form, Floats8):
            stored = self.found.get(f"{module}.weight")
            return stored is not None and stored.dtype == FP8
        return _codes_name(self.scheme.form.packing, module) in self.found

    def _integers(self, form: Integers, module: str, ref: TensorRef) -> Packed:
        outputs, inputs = ref.shape
        per_word = 32 // form.bits
        groups = 1 if form.group is None else -(-inputs // form.group)
        shapes: dict[str, tuple[int, ...]] = {
            Packing.AWQ: (inputs, -(-outputs // per_word)),
            Packing.COMPRESSED: (outputs, -(-inputs // per_word)),
        }
        shape = shapes.get(form.packing, (-(-inputs // per_word), outputs))
        wide = -(-outputs // per_word)
        if form.packing is Packing.COMPRESSED:
            scales = TensorRef(f"{module}.weight_scale", (outputs, groups))
            zeros = TensorRef(f"{module}.weight_zero_point", (wide, groups), WORDS)
            order = TensorRef(f"{module}.weight_g_idx", (inputs,), INDICES)
        else:
            scales = TensorRef(f"{module}.scales", (groups, outputs))
            zeros = TensorRef(f"{module}.qzeros", (groups, wide), WORDS)
            order = TensorRef(f"{module}.g_idx", (inputs,), INDICES)
        # GPTQ writes zero points of symmetric groups too: what is there is read.
        has_zeros = form.zeros or (form.packing is not Packing.COMPRESSED and self._has(zeros))
        return PackedIntegers(
            ref.shape,
            form.packing,
            form.bits,
            TensorRef(_codes_name(form.packing, module), shape, WORDS),
            scales,
            zeros if has_zeros else None,
            order if form.ordered else None,
        )

    def _float8(self, form: Floats8, module: str, ref: TensorRef) -> Packed:
        outputs, inputs = ref.shape
        names = (f"{module}.weight_scale_inv", f"{module}.weight_scale")
        name = next((name for name in names if self.found and name in self.found), names[1])
        shape: tuple[int, ...] = (1,)
        if form.block is not None:
            shape = (-(-outputs // form.block[0]), -(-inputs // form.block[1]))
        elif self.found and name in self.found:
            stored = self.found[name].shape
            # One number may come as [], [1] or [1, 1], one for each output as [out] or [out, 1].
            shape = stored if np.prod(stored) in (1, outputs) else (outputs, 1)
        return PackedFloats(
            TensorRef(ref.name, ref.shape, (FP8,)),
            TensorRef(name, shape),
            form.block,
            self._input_scale(form, module),
        )

    def _input_scale(self, form: Floats8, module: str) -> TensorRef | None:
        if not form.rounds_inputs or self.found is None:
            return None
        for name in (f"{module}.input_scale", f"{module}.activation_scale"):
            if name in self.found:
                return TensorRef(name, self.found[name].shape)
        return None

    def _has(self, ref: TensorRef) -> bool:
        return self.found is not None and ref.name in self.found


def _codes_name(packing: Packing, module: str) -> str:
    return f"{module}.{'weight_packed' if packing is Packing.COMPRESSED else 'qweight'}"
