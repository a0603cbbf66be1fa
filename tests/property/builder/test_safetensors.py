"""Whatever a file holds, reading its header gives tensors inside it or a clear refusal."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pitcrew_builder.checkpoint.safetensors import WIDTHS, read_header
from pitcrew_builder.errors import CheckpointCorrupt

NAMES = st.text(min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 5), max_size=3)


def _file(header: bytes, data: bytes, length: int | None = None) -> bytes:
    prefix = (len(header) if length is None else length).to_bytes(8, "little")
    return prefix + header + data


def _read(content: bytes) -> dict[str, Any] | None:
    """The tensors, or None where the file was refused; any other end fails the test."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "model.safetensors"
        file.write_bytes(content)
        try:
            tensors = read_header(file)
        except CheckpointCorrupt:
            return None
    for tensor in tensors.values():
        assert 8 <= tensor.offset <= tensor.offset + tensor.length <= len(content)
        assert math.prod(tensor.shape) * WIDTHS[tensor.dtype] == tensor.length
    return dict(tensors)


@st.composite
def sound_files(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A header and as many bytes as it speaks of."""
    header: dict[str, Any] = {}
    offset = 0
    for name in draw(
        st.lists(NAMES.filter(lambda n: n != "__metadata__"), unique=True, max_size=5)
    ):
        dtype, shape = draw(st.sampled_from(sorted(WIDTHS))), draw(SHAPES)
        length = math.prod(shape) * WIDTHS[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + length]}
        offset += length
    return header, bytes(offset)


@given(st.binary(max_size=64))
def test_noise_is_refused_or_read(content: bytes) -> None:
    _read(content)


@given(sound_files())
def test_sound_files_are_read(file: tuple[dict[str, Any], bytes]) -> None:
    header, data = file
    tensors = _read(_file(json.dumps(header).encode(), data))
    assert tensors is not None
    assert set(tensors) == set(header)


@given(sound_files(), st.integers(1, 1000))
def test_a_cut_file_is_refused(file: tuple[dict[str, Any], bytes], cut: int) -> None:
    header, data = file
    content = _file(json.dumps(header).encode(), data)
    assert _read(content[: max(0, len(content) - cut)]) is None


@given(sound_files(), st.data())
def test_a_patched_offset_is_refused(
    file: tuple[dict[str, Any], bytes], data: st.DataObject
) -> None:
    header, content = file
    if not header:
        return
    name = data.draw(st.sampled_from(sorted(header)))
    which, shift = data.draw(st.integers(0, 1)), data.draw(st.integers(-9, 9).filter(bool))
    header[name]["data_offsets"][which] += shift
    assert _read(_file(json.dumps(header).encode(), content)) is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
ENTRIES = st.fixed_dictionaries(
    {}, optional={"dtype": JUNK | st.just("F32"), "shape": JUNK, "data_offsets": JUNK}
)


@given(st.dictionaries(NAMES, ENTRIES | JUNK, max_size=3) | JUNK, st.binary(max_size=16))
@example({"x": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}, b"")
@example({"x": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"0000")
@example({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4]}}, b"0000")
def test_any_json_is_refused_or_read(header: Any, data: bytes) -> None:  # noqa: ANN401
    _read(_file(json.dumps(header).encode(), data))


@given(st.binary(max_size=32), st.integers(0, (1 << 64) - 1))
def test_any_length_is_refused_or_read(header: bytes, length: int) -> None:
    _read(_file(header, b"", length))
