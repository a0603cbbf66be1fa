"""What NVIDIA's DCGM exporters tell of the GPUs that pods hold.

`DCGM_FI_DEV_GPU_UTIL` (0 to 100) is the share of time in which a kernel ran. A slice of a GPU (MIG)
has no such figure; there `DCGM_FI_PROF_GR_ENGINE_ACTIVE` (0 to 1) counts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

_UTILIZATION: Final = "DCGM_FI_DEV_GPU_UTIL"
_ENGINE_ACTIVE: Final = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
_WHOLE: Final = {_UTILIZATION: 1, _ENGINE_ACTIVE: 100}
"""What makes percent of each."""


class PodName(NamedTuple):
    """Namespace and name of a pod."""

    namespace: str
    name: str


def readings(text: str) -> dict[PodName, list[float]]:
    """Percent of each GPU, or slice of one, by the pod that holds it. What is no percentage (DCGM has
    figures that stand for "not known") is left out.

    Raises ValueError where a line of these is no Prometheus text.
    """
    found: dict[PodName, dict[tuple[str, str], float]] = defaultdict(dict)
    # An exporter tells of a hundred things, and to parse them all would keep everybody waiting.
    lines = (line for line in text.splitlines() if line.startswith(tuple(_WHOLE)))
    for family in text_string_to_metric_families("\n".join((*lines, ""))):
        for sample in family.samples if family.name in _WHOLE else ():
            pod, device = _pod(sample.labels), _device(sample.labels)
            percent = _WHOLE[family.name] * sample.value
            if not pod.name or not 0 <= percent <= 100:
                continue
            if family.name == _UTILIZATION:
                found[pod][device] = percent
            else:
                found[pod].setdefault(device, percent)
    return {pod: list(devices.values()) for pod, devices in found.items()}


def average(usage: Mapping[PodName, Sequence[float]], pods: Sequence[PodName]) -> float | None:
    """Percent over all GPUs of the pods; None where nothing is told of any."""
    values = [value for pod in pods for value in usage.get(pod, ())]
    return sum(values) / len(values) if values else None


def _pod(labels: Mapping[str, str]) -> PodName:
    """A scrape that does not honour labels renames those of the exporter."""
    return PodName(
        labels.get("exported_namespace") or labels.get("namespace", ""),
        labels.get("exported_pod") or labels.get("pod", ""),
    )


def _device(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get("UUID") or labels.get("gpu", ""), labels.get("GPU_I_ID", "")
