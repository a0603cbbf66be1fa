"""GPUs as the labels of their nodes tell them, and the ones that an engine is built for.

The labels are those of NVIDIA's GPU feature discovery. Its versions spell the driver's in two ways
(`nvidia.com/cuda.driver.major`, `nvidia.com/cuda.driver-version.major`); both are read.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from pitcrew_operator.api.version import Pool

_PREFIX: Final = "nvidia.com/"
PRODUCT: Final = f"{_PREFIX}gpu.product"
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Driver:
    """The software below a plan: kernels are measured on it, and a plan may not outlive it."""

    branch: int
    """Major version of the driver, such as 580."""
    cuda: tuple[int, int]
    """Newest CUDA that it knows."""

    @property
    def cuda_text(self) -> str:
        """Such as 13.0."""
        return ".".join(map(str, self.cuda))


@dataclass(frozen=True)
class GpuNode:
    """A node that bears the labels."""

    labels: Mapping[str, str]
    schedulable: bool
    product: str
    capability: str
    """Compute capability as specs write it: sm90."""
    memory: int
    """Bytes of one GPU."""
    count: int
    driver: Driver
    driver_label: str
    """The label that tells the driver's branch on this node."""


@dataclass(frozen=True)
class GpuPool:
    """The nodes that an engine is built for: one product, one driver."""

    product: str
    capability: str
    driver: Driver
    memory: int
    """Bytes of the smallest of its GPUs."""
    total: int
    """GPUs of that product on all nodes that the engine may use."""
    selector: Mapping[str, str]
    """Node labels that lead to the pool."""

    @classmethod
    def of(cls, pool: Pool) -> Self:
        """As it was recorded."""
        major, _, minor = pool.cuda.partition(".")
        driver = Driver(pool.driver, (int(major), int(minor)))
        return cls(
            product=pool.product,
            capability=pool.compute_capability,
            driver=driver,
            memory=pool.memory_bytes,
            total=pool.total,
            selector=pool.node_selector,
        )

    def recorded(self) -> Pool:
        """As it is recorded."""
        return Pool(
            product=self.product,
            compute_capability=self.capability,
            driver=self.driver.branch,
            cuda=self.driver.cuda_text,
            memory_bytes=self.memory,
            total=self.total,
            node_selector=dict(self.selector),
        )

    @property
    def platform(self) -> dict[str, str]:
        """As it stands in a status and in a build request, by the fields of `Platform`."""
        return {
            "gpuProduct": self.product,
            "driver": str(self.driver.branch),
            "cuda": self.driver.cuda_text,
        }


def gpu_node(labels: Mapping[str, str], *, schedulable: bool) -> GpuNode | None:
    """Read a node's labels; None where it has no GPU or where feature discovery does not run."""
    try:
        branch, driver_label = _version(labels, "driver", "major")
        capability = f"sm{labels[f'{_PREFIX}gpu.compute.major']}{labels[_MINOR]}"
        return GpuNode(
            labels=labels,
            schedulable=schedulable,
            product=labels[PRODUCT],
            capability=capability,
            memory=int(labels[f"{_PREFIX}gpu.memory"]) * _MIB,
            count=int(labels.get(f"{_PREFIX}gpu.count", "1")),
            driver=Driver(
                branch,
                (_version(labels, "runtime", "major")[0], _version(labels, "runtime", "minor")[0]),
            ),
            driver_label=driver_label,
        )
    except (KeyError, ValueError):
        return None


_MINOR: Final = f"{_PREFIX}gpu.compute.minor"


def _version(labels: Mapping[str, str], part: str, digit: str) -> tuple[int, str]:
    """A number of CUDA's driver or runtime, and the label it stands in. Raises KeyError."""
    for name in (f"{_PREFIX}cuda.{part}-version.{digit}", f"{_PREFIX}cuda.{part}.{digit}"):
        if name in labels:
            return int(labels[name]), name
    raise KeyError(part)


def choose_pool(
    nodes: Iterable[GpuNode],
    capability: str,
    selector: Mapping[str, str],
    known: GpuPool | None = None,
) -> GpuPool | None:
    """The pool to build for: of the product that is in use, else of the commonest; newest driver.

    `known` is the pool of before. Staying with its product keeps engines from being rebuilt whenever a
    node comes or goes. The newest driver wins as soon as one node has it: during a driver upgrade the
    next engine is built while the nodes that still wait serve the one before. Nodes that take no pods
    for a while bring nothing new, and take nothing away. None where no node qualifies.
    """
    fitting = [
        node
        for node in nodes
        if node.capability == capability and selector.items() <= node.labels.items()
    ]
    usable = [node for node in fitting if node.schedulable]
    if not usable:
        return None
    in_use = known is not None and any(node.product == known.product for node in fitting)
    chosen = known.product if known is not None and in_use else _commonest(usable)
    alike = [node for node in fitting if node.product == chosen]
    drivers = [n.driver for n in alike if n.schedulable or (known and n.driver == known.driver)]
    if not drivers:
        return None
    newest = max(drivers, key=lambda driver: (driver.cuda, driver.branch))
    ours = [node for node in alike if node.driver == newest]
    label = min(node.driver_label for node in ours)
    return GpuPool(
        product=chosen,
        capability=capability,
        driver=newest,
        memory=min(node.memory for node in ours),
        total=sum(node.count for node in alike),
        selector={PRODUCT: chosen, label: str(newest.branch)},
    )


def _commonest(nodes: Sequence[GpuNode]) -> str:
    counts: Counter[str] = Counter()
    for node in nodes:
        counts[node.product] += node.count
    return max(counts, key=lambda name: (counts[name], name))
