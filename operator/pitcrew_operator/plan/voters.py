"""Which signals vote on the number of replicas: those that are named, and a load in any case."""

from dataclasses import dataclass

from pitcrew_operator.api.autoscaling import (
    Autoscaling,
    FirstTokenTarget,
    GpuUtilization,
    KvCacheUsage,
    WaitingRequests,
)


@dataclass(frozen=True)
class Voters:
    """The settings of each that votes."""

    gpu: GpuUtilization | None
    waiting: WaitingRequests | None
    kv: KvCacheUsage | None
    first_token: FirstTokenTarget | None

    @property
    def asks_pods(self) -> bool:
        """Whether one of them is told by the pods themselves."""
        return any((self.waiting, self.kv, self.first_token))


def voters_of(asked: Autoscaling, *, has_gpus: bool) -> Voters:
    """Where no load is named, GPUs are it for pods that hold some, and requests that wait for others."""
    gpu = asked.gpu_utilization if has_gpus else None
    waiting, kv = asked.waiting_requests, asked.kv_cache_usage
    if gpu is None and waiting is None and kv is None:
        gpu, waiting = (GpuUtilization(), None) if has_gpus else (None, WaitingRequests())
    return Voters(gpu, waiting, kv, asked.time_to_first_token)
