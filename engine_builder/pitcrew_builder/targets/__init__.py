"""What engines are built for, each behind `target.Backend`; nobody else knows one by name."""

from collections.abc import Callable, Mapping

from pitcrew_builder.spec import BuildSpec, Target
from pitcrew_builder.targets.target import Backend


def _onnxruntime_cpu(spec: BuildSpec) -> Backend:
    from pitcrew_builder.targets.onnxruntime_cpu import OnnxRuntimeCpu

    return OnnxRuntimeCpu()


_BACKENDS: Mapping[Target, Callable[[BuildSpec], Backend]] = {
    Target.ONNXRUNTIME_CPU: _onnxruntime_cpu,
}


def backend_of(spec: BuildSpec) -> Backend:
    """The backend that meets a spec. Raises `InvalidSpec` where it is not installed here."""
    return _BACKENDS[spec.target](spec)
