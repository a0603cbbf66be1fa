"""Number grids and the algorithms over them: bounds, and better than plain rounding."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.quantize import awq, gptq
from pitcrew_builder.quantize.grid import Floats, Grid, packed, widest_block

INT4 = Grid(ElementType.INT4, 32)


def _problem(seed: int = 0) -> tuple[Floats, Floats]:
    """A matrix [48, 64] and activations [512, 64] of which a few channels are large."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((64, 64)).astype(np.float32) / 8
    rows = rng.standard_normal((512, 64)).astype(np.float32) @ mixing
    rows[:, ::9] *= 12
    return rng.standard_normal((48, 64)).astype(np.float32), rows


def _output_error(matrix: Floats, approximate: Floats, rows: Floats) -> float:
    return float(np.square(rows @ (matrix - approximate).T).mean())


@given(st.sampled_from([ElementType.INT4, ElementType.INT8]), st.integers(0, 2**32 - 1))
def test_integer_rounding_errs_by_half_a_step_at_most(kind: ElementType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((3, 64)).astype(np.float32) * 10 ** rng.uniform(-6, 6)
    grid = Grid(kind, 16)
    scales = grid.scales(matrix)
    error = np.abs(grid.blocks(grid.rounded(matrix, scales) - matrix))
    assert (error <= scales[:, :, None] * 0.5001).all()


def test_fp8_errs_by_a_sixteenth_at_most() -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    grid = Grid(ElementType.FLOAT8, 64)
    rounded = grid.rounded(matrix, grid.scales(matrix))
    # Below the least normal number the steps are absolute.
    assert (np.abs(rounded - matrix) <= np.maximum(np.abs(matrix) / 16, 1e-4)).all()


def test_a_block_of_zeros_stays_zero() -> None:
    zeros = np.zeros((2, 32), np.float32)
    assert (INT4.rounded(zeros, INT4.scales(zeros)) == 0).all()


def test_int4_bytes_are_those_of_onnx() -> None:
    codes = np.random.default_rng(0).integers(-8, 8, (6, 32)).astype(np.int8)
    tensor = onnx.TensorProto(dims=codes.shape, data_type=onnx.TensorProto.INT4)
    tensor.raw_data = packed(codes, ElementType.INT4)
    assert (onnx.numpy_helper.to_array(tensor).astype(np.int8) == codes).all()


@pytest.mark.parametrize(
    ("inputs", "wanted", "block"), [(512, 128, 128), (192, 128, 64), (48, 128, 16), (40, 128, None)]
)
def test_blocks_divide_the_inputs(inputs: int, wanted: int, block: int | None) -> None:
    assert widest_block(inputs, wanted) == block


@pytest.mark.parametrize("seed", range(3))
def test_awq_and_gptq_beat_rounding_on_what_they_were_shown(seed: int) -> None:
    matrix, rows = _problem(seed)
    moment = rows.T @ rows / len(rows)
    plain = _output_error(matrix, INT4.rounded(matrix, INT4.scales(matrix)), rows)

    s = awq.input_scales(matrix, INT4, moment, np.abs(rows).mean(axis=0))
    steps = awq.clipped_scales(matrix * s, INT4, moment / np.outer(s, s))
    scaled = _output_error(matrix, INT4.rounded(matrix * s, steps) / s, rows)

    codes, scales = gptq.encode(matrix, INT4, gptq.Problem.of(moment))
    corrected = _output_error(matrix, INT4.decode(codes, scales), rows)
    assert scaled < 0.7 * plain
    assert corrected < 0.7 * plain


def test_gptq_takes_rows_in_any_runs() -> None:
    matrix, rows = _problem()
    problem = gptq.Problem.of(rows.T @ rows / len(rows))
    whole, _ = gptq.encode(matrix, INT4, problem)
    parts = [gptq.encode(matrix[start : start + 16], INT4, problem)[0] for start in (0, 16, 32)]
    assert (np.concatenate(parts) == whole).all()


def test_gptq_survives_inputs_that_are_always_zero() -> None:
    matrix, rows = _problem()
    rows[:, 3] = 0
    codes, scales = gptq.encode(matrix, INT4, gptq.Problem.of(rows.T @ rows / len(rows)))
    assert np.isfinite(scales).all()
    assert codes.min() >= -8
    assert codes.max() <= 7


def test_gptq_finds_the_codes_of_its_definition() -> None:
    """Beside a plain loop over inputs in order of energy, the inverse made anew for each."""
    matrix, rows = _problem()
    moment = rows.T @ rows / len(rows)
    found, scales = gptq.encode(matrix, INT4, gptq.Problem.of(moment))
    hessian = moment.astype(np.float64) + 0.01 * np.diag(moment).mean() * np.eye(64)
    left, wanted = list(np.argsort(-np.diag(hessian), kind="stable")), matrix.astype(np.float64)
    while left:
        first = left[0]
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        step = scales[:, first // INT4.block]
        codes = np.clip(np.rint(wanted[:, first] / step), -8, 7)
        error = (wanted[:, first] - codes * step) / inverse[0, 0]
        wanted[:, left] -= np.outer(error, inverse[0])
        left = left[1:]
        # Float32 may round a number that lies between two codes to the other one.
        assert (codes == found[:, first]).mean() > 0.9
