"""Memory that is there when it is asked for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def resident_zeros(dims: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros whose pages are all mapped: too much fails at once, not under load."""
    array = np.empty(dims, dtype)
    array.fill(0)
    return array
