"""Recipes read as NumPy would compute them, whole and by any range of rows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pitcrew_builder.checkpoint.assemble import Assembler
from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo, read_header
from pitcrew_builder.graph.recipe import (
    Columns,
    Entry,
    LowRank,
    Mxfp4,
    Plus,
    Rows,
    Source,
    TensorRef,
    Transposed,
    cut,
    map_tensors,
    tensors_of,
)

Floats = npt.NDArray[np.float32]
RNG = np.random.default_rng(0)
ARRAYS: dict[str, npt.NDArray[np.generic]] = {
    "matrix": RNG.standard_normal((6, 8), dtype=np.float32),
    "stack": RNG.standard_normal((3, 6, 8), dtype=np.float32),
    "up": RNG.standard_normal((6, 2), dtype=np.float32),
    "down": RNG.standard_normal((2, 8), dtype=np.float32),
    "vector": RNG.standard_normal(6, dtype=np.float32),
    "blocks": RNG.integers(0, 256, size=(2, 5, 3, 16), dtype=np.uint8),
    "scales": RNG.integers(120, 134, size=(2, 5, 3), dtype=np.uint8),
}


def _ref(name: str) -> TensorRef:
    return TensorRef(
        name, ARRAYS[name].shape, packed=("U8",) if ARRAYS[name].dtype == np.uint8 else ()
    )


def _array(name: str) -> Floats:
    return ARRAYS[name].astype(np.float32)


def _decoded(index: int) -> Floats:
    """MXFP4 by its text: sign, two bits of exponent, one of mantissa; a power of two a block."""
    codes = np.stack([ARRAYS["blocks"][index] & 15, ARRAYS["blocks"][index] >> 4], axis=-1)
    exponent, mantissa = (codes >> 1) & 3, codes & 1
    size = np.where(exponent == 0, mantissa / 2, (1 + mantissa / 2) * 2.0 ** (exponent - 1.0))
    power = 2.0 ** (_array("scales")[index] - 127)
    numbers = np.where(codes & 8, -size, size) * power[..., None, None]
    return numbers.reshape(5, -1).astype(np.float32)


MERGED = LowRank(_ref("matrix"), _ref("up"), _ref("down"), 1.5)
PRODUCT = _array("matrix") + 1.5 * _array("up") @ _array("down")
RECIPES: dict[str, tuple[Source, Floats]] = {
    "a tensor": (_ref("matrix"), _array("matrix")),
    "an entry": (Entry(_ref("stack"), 2), _array("stack")[2]),
    "rows": (Rows(_ref("matrix"), 1, 5), _array("matrix")[1:5]),
    "every other row": (Rows(_ref("matrix"), 1, 6, 2), _array("matrix")[1::2]),
    "columns": (Columns(_ref("matrix"), 3, 8), _array("matrix")[:, 3:]),
    "every third column": (Columns(_ref("matrix"), 1, 8, 3), _array("matrix")[:, 1:8:3]),
    "turned over": (Transposed(_ref("matrix")), _array("matrix").T),
    "plus one": (Plus(_ref("vector"), 1.0), _array("vector") + 1),
    "merged": (MERGED, PRODUCT),
    "a part of what is merged": (
        cut(Rows(MERGED, 2, 6), {0: range(1, 3), 1: range(4, 8)}), PRODUCT[3:5, 4:],
    ),
    "merged the other way round": (
        LowRank(_ref("matrix"), Transposed(Transposed(_ref("up"))), _ref("down"), 1.5), PRODUCT,
    ),
    "half of an expert's pair": (
        Rows(Transposed(Entry(_ref("stack"), 1)), 0, 8, 2), _array("stack")[1].T[::2],
    ),
    "a packed matrix": (Mxfp4(_ref("blocks"), _ref("scales"), 1), _decoded(1)),
    "rows of a packed matrix": (
        Rows(Mxfp4(_ref("blocks"), _ref("scales"), 0), 1, 5, 2), _decoded(0)[1:5:2],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TensorInfo]:
    file = tmp_path_factory.mktemp("recipes") / "model.safetensors"
    save_file(ARRAYS, file)
    return read_header(file)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_streams_its_elements_in_order(name: str, tensors: dict[str, TensorInfo]) -> None:
    source, expected = RECIPES[name]
    with WeightReader() as reader:
        chunks = [chunk.copy() for chunk in Assembler(tensors, reader).stream(source)]
    assert source.shape == expected.shape
    streamed = np.concatenate([chunk.reshape(-1) for chunk in chunks])
    np.testing.assert_allclose(streamed.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


@given(name=st.sampled_from(sorted(RECIPES)), data=st.data())
def test_any_rows_of_a_recipe_are_those_of_the_whole(
    name: str, data: st.DataObject, tensors: dict[str, TensorInfo]
) -> None:
    source, expected = RECIPES[name]
    start = data.draw(st.integers(0, len(expected) - 1))
    stop = data.draw(st.integers(start + 1, len(expected)))
    with WeightReader() as reader:
        rows = Assembler(tensors, reader).rows(source, start, stop)
    np.testing.assert_allclose(rows, expected[start:stop], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_mapping_reaches_every_tensor_and_entry_of_a_stack(name: str) -> None:
    source, _ = RECIPES[name]

    def new(part: TensorRef | Entry) -> Source:
        if isinstance(part, Entry):
            return Entry(replace(part.source, name=f"new {part.source.name}"), part.index)
        return replace(part, name=f"new {part.name}")

    renamed = map_tensors(source, new)
    assert renamed.shape == source.shape
    stacked = {"blocks", "scales", "up", "down"}
    for before, after in zip(tensors_of(source), tensors_of(renamed), strict=True):
        assert after.name == (before.name if before.name in stacked else f"new {before.name}")
