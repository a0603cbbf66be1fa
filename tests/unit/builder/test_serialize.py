"""Data files: what is placed where, and that what is written is what the checkpoint holds."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from threading import get_ident

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pitcrew_builder.checkpoint.reader import BLOCK, WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo, read_header
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.graph.ir import ElementType, Graph, Literal, Value, Weight
from pitcrew_builder.graph.proto import Extent, data_name, to_proto
from pitcrew_builder.graph.recipe import TensorRef
from pitcrew_builder.serialize import ALIGNMENT, MOST_FILES, place, size, write_data

STEM = "model.onnx.data"


def _graph(shapes: Mapping[str, tuple[int, ...]], literals: tuple[Literal, ...] = ()) -> Graph:
    weights = tuple(Weight(Value(n), (TensorRef(n, shape),)) for n, shape in shapes.items())
    return Graph("constants", (), (), (), weights, literals)


def _read_back(root: Path, graph: Graph, extents: Mapping[Value, Extent]) -> dict[str, np.ndarray]:
    """What a reader of the ONNX model finds, by name."""
    model = to_proto(graph, extents, STEM, {})
    onnx.load_external_data_for_model(model, str(root))
    return {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}


def _tensors(file: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, TensorInfo]:
    save_file(dict(arrays), file)
    return read_header(file)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=300), st.integers(1, 40_000))
def test_constants_are_apart_and_files_are_small(lengths: list[int], file_bytes: int) -> None:
    graph = _graph({f"w{index}": (length,) for index, length in enumerate(lengths)})
    extents = place(graph, file_bytes)
    assert [extents[item.name].length for item in graph.weights] == [4 * n for n in lengths]
    files: dict[int, list[Extent]] = {}
    for extent in extents.values():
        files.setdefault(extent.file, []).append(extent)
    limit = max(file_bytes, 4 * sum(lengths) // MOST_FILES)
    for number, (file, content) in enumerate(files.items()):
        assert file == number
        end = 0
        for extent in content:
            assert extent.offset % ALIGNMENT == 0
            assert 0 <= extent.offset - end < ALIGNMENT
            end = extent.offset + extent.length
        assert end <= limit or len(content) == 1
    assert size(extents) == sum(each[-1].offset + each[-1].length for each in files.values())


@pytest.mark.parametrize("file_bytes", [1, 50_000, 1 << 30])
def test_a_reader_finds_the_checkpoints_numbers_in_however_many_files(
    file_bytes: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    types = (np.float32, np.float16, ml_dtypes.bfloat16)
    arrays = {
        f"w{i}": rng.standard_normal((i + 1, 4099), np.float32).astype(types[i % 3])
        for i in range(9)
    }
    table = Literal(Value("table"), np.arange(1000, dtype=np.int64))
    graph = _graph({name: array.shape for name, array in arrays.items()}, (table,))
    extents, told = place(graph, file_bytes), []
    tensors = _tensors(tmp_path / "in.safetensors", arrays)
    entries = write_data(tmp_path / STEM, "rank0", graph, extents, tensors, told.append)
    files = 1 + max(extent.file for extent in extents.values())
    assert {entry.path for entry in entries} == {
        f"rank0/{data_name(STEM, i)}" for i in range(files)
    }
    for entry in entries:
        content = (tmp_path / Path(entry.path).name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert sum(told) == sum(entry.size for entry in entries) == size(extents)
    found = _read_back(tmp_path, graph, extents)
    np.testing.assert_array_equal(found.pop("table"), table.array)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_blocks_join_to_the_tensor(dtype: type, count: int, tmp_path: Path) -> None:
    array = np.random.default_rng(count).standard_normal(count, np.float32).astype(dtype)
    (info,) = _tensors(tmp_path / "in.safetensors", {"w": array}).values()
    with WeightReader() as reader:
        chunks = [chunk.copy() for chunk in reader.chunks(info)]
        part = reader.elements(info, count // 2, count - count // 2)
    np.testing.assert_array_equal(np.concatenate(chunks), array.astype(np.float32))
    np.testing.assert_array_equal(part, array[count // 2 :].astype(np.float32))


def test_encoded_weights_are_copied_as_they_are(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-128, 127, 9 << 20, np.int8)
    weight = Weight(Value("w"), (TensorRef("w", codes.shape),), type=ElementType.INT8)
    graph = Graph("codes", (), (), (), (weight,), ())
    tensors = _tensors(tmp_path / "in.safetensors", {"w": codes})
    write_data(tmp_path / STEM, "rank0", graph, place(graph), tensors, lambda _: None)
    assert (tmp_path / STEM).read_bytes() == codes.tobytes()


@pytest.mark.parametrize("kind", [ElementType.FLOAT16, ElementType.BFLOAT16])
@pytest.mark.parametrize("value", [np.nan, -np.inf, None])
def test_halves_are_copied_if_they_are_finite(
    kind: ElementType, value: float | None, tmp_path: Path
) -> None:
    numbers = np.random.default_rng(0).standard_normal(2 * BLOCK + 3).astype(kind.dtype)
    # Of all finite numbers the nearest to infinity.
    numbers[:2] = np.array([-1, 1]) * ml_dtypes.finfo(kind.dtype).max
    if value is not None:
        numbers[-1] = value
    weight = Weight(Value("w"), (TensorRef("w", numbers.shape),), type=kind)
    graph = Graph("halves", (), (), (), (weight,), ())
    tensors = _tensors(tmp_path / "in.safetensors", {"w": numbers})
    data = tmp_path / STEM
    if value is None:
        write_data(data, "rank0", graph, place(graph), tensors, lambda _: None)
        assert data.read_bytes() == numbers.tobytes()
        return
    with pytest.raises(CheckpointCorrupt, match="'w' holds NaN or infinity"):
        write_data(data, "rank0", graph, place(graph), tensors, lambda _: None)


def test_the_file_that_fails_is_the_one_that_is_told_of(tmp_path: Path) -> None:
    arrays = {f"w{i}": np.ones(BLOCK, np.float32) for i in range(8)}
    arrays["w5"][-1] = np.nan
    graph = _graph({name: array.shape for name, array in arrays.items()})
    tensors = _tensors(tmp_path / "in.safetensors", arrays)
    with pytest.raises(CheckpointCorrupt, match="'w5' holds NaN"):
        write_data(tmp_path / STEM, "rank0", graph, place(graph, 1), tensors, lambda _: None)


def test_who_counts_is_never_called_by_two_threads_at_once(tmp_path: Path) -> None:
    arrays = {f"w{i}": np.ones(BLOCK // 8, np.float32) for i in range(16)}
    graph = _graph({name: array.shape for name, array in arrays.items()})
    tensors = _tensors(tmp_path / "in.safetensors", arrays)
    inside: list[int] = []

    def count(_: int) -> None:
        inside.append(get_ident())
        time.sleep(0.001)  # any other thread that may come, comes
        assert inside == [get_ident()]
        inside.pop()

    write_data(tmp_path / STEM, "rank0", graph, place(graph, 1), tensors, count)
