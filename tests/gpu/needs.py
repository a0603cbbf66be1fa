"""What tests of plans on a GPU need; without it they are skipped, by name of what is missing."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from pitcrew_builder.targets.trt.gpu import compute_capability
from pitcrew_builder.targets.trt.library import TENSORRT
from pitcrew_runtime.execution.gpu.device import GpuUnavailable, gpu_count
from tests.integration.builder.plans import SAMPLE, Workshop

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


def gpus() -> int:
    """Of this machine; 0 where there is nothing to ask."""
    try:
        return gpu_count()
    except GpuUnavailable:
        return 0


SPLIT = [*PLANS, pytest.mark.skipif(gpus() < 2, reason="fewer than two GPUs")]


def sample_plan(root: Path, **spec: object) -> Path:
    """The sample model's engine with our own kernels; `spec` adds to the spec's document."""
    own = {"attention": "kernel", "products": "kernel", "optimizationLevel": 0}
    path, _ = Workshop(root).publish(
        SAMPLE,
        target="tensorrt",
        precision="fp16",
        shapes={"maxBatchSize": 8, "maxSequenceLength": 512, "kvPageSize": 16},
        tensorrt={"computeCapability": GPU, "prefillChunk": 64, **own},
        **spec,
    )
    return path
