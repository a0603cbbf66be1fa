"""The text of a DCGM exporter, in the form that NVIDIA's writes, for tests."""

from collections.abc import Mapping

_HEAD = """\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
"""
_LINE = (
    'DCGM_FI_DEV_GPU_UTIL{{gpu="{number}",UUID="GPU-{number}",pci_bus_id="00000000:0{number}:00.0",'
    'device="nvidia{number}",modelName="NVIDIA H100 80GB HBM3",Hostname="node",container="runtime",'
    'namespace="{namespace}",pod="{pod}"}} {percent}\n'
)


def exposition(namespace: str, usage: Mapping[str, float]) -> str:
    """Percent of the one GPU of each pod, by the pod's name."""
    lines = (
        _LINE.format(number=number, namespace=namespace, pod=pod, percent=percent)
        for number, (pod, percent) in enumerate(sorted(usage.items()))
    )
    return _HEAD + "".join(lines)
