"""What engines are built for, each behind `target.Backend`; nobody else knows one by name."""

from collections.abc import Callable, Mapping

from pitcrew_builder.spec import BuildSpec, Target
from pitcrew_builder.targets.target import Backend


def _onnxruntime_cpu(spec: BuildSpec) -> Backend:
    from pitcrew_builder.targets.onnxruntime_cpu import OnnxRuntimeCpu

    return OnnxRuntimeCpu()


def _tensorrt_rtx(spec: BuildSpec) -> Backend:
    from pitcrew_builder.targets.trt.backends import TensorRtRtx

    assert spec.tensorrt is not None, "the spec's validator demands the options of its target"
    return TensorRtRtx(spec.precision, spec.tensorrt)


def _tensorrt(spec: BuildSpec) -> Backend:
    from pitcrew_builder.targets.trt.backends import TensorRtGpu

    assert spec.tensorrt is not None, "the spec's validator demands the options of its target"
    return TensorRtGpu(spec.precision, spec.tensorrt)


_BACKENDS: Mapping[Target, Callable[[BuildSpec], Backend]] = {
    Target.ONNXRUNTIME_CPU: _onnxruntime_cpu,
    Target.TENSORRT: _tensorrt,
    Target.TENSORRT_RTX: _tensorrt_rtx,
}


def backend_of(spec: BuildSpec) -> Backend:
    """The backend that meets a spec; it says itself, later, where it cannot work on this machine."""
    return _BACKENDS[spec.target](spec)
