"""Any grouping of a matrix's inputs can be laid out in blocks, and no number changes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pitcrew_builder.checkpoint.coded import Coded, joined
from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.quantize.arrange import LEAST, MOST, Arranged, arrange

INTEGERS = st.sampled_from([ElementType.INT4, ElementType.INT8])


@st.composite
def coded(draw: st.DrawFn) -> Coded:
    """A matrix whose inputs belong to groups in runs, with a short one at the end, or anyhow."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind, inputs = draw(INTEGERS), draw(st.integers(1, 300))
    group = draw(st.sampled_from([16, 24, 32, 48, 128, 300]))
    groups = np.arange(inputs) // group
    if draw(st.booleans()):
        groups = rng.permutation(groups)
    half = 1 << (kind.bits - 1)
    shape = (3, int(groups.max()) + 1)
    return Coded(
        kind,
        rng.integers(-half, half, (3, inputs)).astype(np.int8),
        rng.uniform(0.1, 1, shape).astype(np.float32),
        groups.astype(np.int64),
        rng.integers(-2, 3, shape).astype(np.float32) if draw(st.booleans()) else None,
    )


def _product(found: Arranged, rows: np.ndarray) -> np.ndarray:
    """What the graph computes, in float64."""
    columns = rows if found.order is None else rows[:, found.order]
    values = found.codes.astype(np.float64)
    scales = found.scales.astype(np.float64).repeat(found.block, axis=1)
    if found.zeros is not None:
        values -= found.zeros.repeat(found.block, axis=1)
    return columns @ (values * scales).T


@given(coded())
@settings(max_examples=150)
def test_blocks_compute_what_groups_say(matrix: Coded) -> None:
    found = arrange(matrix)
    inputs = matrix.codes.shape[1]
    assert found.codes.shape[1] == found.block * found.scales.shape[1]
    assert found.block <= MOST.get(matrix.type, inputs)
    assert found.block >= LEAST or found.block == inputs
    rows = np.random.default_rng(0).standard_normal((2, inputs))
    wanted = rows @ matrix.decoded().astype(np.float64).T
    np.testing.assert_allclose(_product(found, rows), wanted, rtol=1e-4, atol=1e-4)


@given(coded(), st.data())
def test_parts_of_a_matrix_add_up_to_it(matrix: Coded, data: st.DataObject) -> None:
    inputs = matrix.codes.shape[1]
    border = data.draw(st.integers(0, inputs))
    rows = np.random.default_rng(0).standard_normal((2, inputs))
    total = np.zeros((2, 3))
    for part in (slice(0, border), slice(border, inputs)):
        if part.start < part.stop:
            upper, lower = (matrix.part(rows_, part) for rows_ in (slice(0, 1), slice(1, 3)))
            total += _product(arrange(joined([upper, lower])), rows[:, part])
    wanted = rows @ matrix.decoded().astype(np.float64).T
    np.testing.assert_allclose(total, wanted, rtol=1e-4, atol=1e-4)
