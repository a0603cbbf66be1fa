"""What tests of plans on a GPU need; without it they are skipped, by name of what is missing."""

from importlib.util import find_spec

import pytest

from pitcrew_builder.targets.trt.gpu import compute_capability
from pitcrew_builder.targets.trt.library import TENSORRT

GPU = compute_capability()

PLANS = [
    pytest.mark.gpu,
    # Of TensorRT's own module for plugins.
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),
    pytest.mark.skipif(GPU is None, reason="no GPU"),
    pytest.mark.skipif(
        not any(map(find_spec, TENSORRT.modules)), reason="TensorRT is not installed"
    ),
]
