"""Nodes as their labels tell them, and the pool that an engine is built for."""

from dataclasses import replace

import pytest

from pitcrew_operator.gpus import Driver, GpuNode, GpuPool, choose_pool, gpu_node

H100, H200 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-H200"


def labels(
    product: str = H100, driver: int = 580, cuda: str = "13.0", count: int = 8, **more: str
) -> dict[str, str]:
    """What GPU feature discovery writes, in the spelling of its newer versions."""
    major, _, minor = cuda.partition(".")
    return {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": "81559",
        "nvidia.com/gpu.count": str(count),
        "nvidia.com/gpu.compute.major": "9",
        "nvidia.com/gpu.compute.minor": "0",
        "nvidia.com/cuda.driver-version.major": str(driver),
        "nvidia.com/cuda.runtime-version.major": major,
        "nvidia.com/cuda.runtime-version.minor": minor,
        **more,
    }


def node(schedulable: bool = True, **given: object) -> GpuNode:
    found = gpu_node(labels(**given), schedulable=schedulable)  # type: ignore[arg-type]
    assert found is not None
    return found


def chosen(*nodes: GpuNode, known: GpuPool | None = None, **selector: str) -> GpuPool:
    pool = choose_pool(nodes, "sm90", selector, known)
    assert pool is not None
    return pool


def test_a_node_is_read() -> None:
    found = node()
    assert (found.product, found.capability, found.count) == (H100, "sm90", 8)
    assert found.memory == 81559 << 20
    assert found.driver == Driver(580, (13, 0))


def test_both_spellings_of_the_driver_are_read() -> None:
    old = {name.replace("-version.", "."): value for name, value in labels().items()}
    found = gpu_node(old, schedulable=True)
    assert found is not None
    assert found.driver == Driver(580, (13, 0))
    assert chosen(found).selector["nvidia.com/cuda.driver.major"] == "580"
    assert chosen(node()).selector["nvidia.com/cuda.driver-version.major"] == "580"


@pytest.mark.parametrize("missing", labels().keys() - {"nvidia.com/gpu.count"})
def test_a_node_that_tells_too_little_is_none(missing: str) -> None:
    told = {name: value for name, value in labels().items() if name != missing}
    assert gpu_node(told, schedulable=True) is None


def test_a_label_that_is_no_number_is_none() -> None:
    assert gpu_node(labels() | {"nvidia.com/gpu.memory": "lots"}, schedulable=True) is None


def test_the_newest_driver_wins_as_soon_as_one_node_has_it() -> None:
    pool = chosen(*[node(driver=575, cuda="12.9")] * 9, node(driver=580, cuda="13.0", count=1))
    assert pool.driver == Driver(580, (13, 0))
    assert pool.total == 73


def test_drivers_are_compared_as_numbers() -> None:
    assert chosen(node(cuda="13.9"), node(cuda="13.10")).driver.cuda == (13, 10)


def test_the_commonest_product_is_chosen_and_then_kept() -> None:
    nodes = (node(count=8), node(product=H200, count=4))
    assert chosen(*nodes).product == H100
    known = chosen(node(product=H200))
    assert chosen(*nodes, known=known).product == H200
    assert chosen(node(), known=known).product == H100


def test_nodes_that_take_no_pods_for_a_while_change_nothing() -> None:
    new, old = node(driver=580, cuda="13.0"), node(driver=575, cuda="12.9")
    known = chosen(new, old)
    assert chosen(replace(new, schedulable=False), old, known=known) == known
    other = node(product=H200)
    assert chosen(*(replace(n, schedulable=False) for n in (new, old)), other, known=known) == known


def test_a_driver_that_no_pod_can_reach_yet_is_not_built_for() -> None:
    before = chosen(node(driver=575, cuda="12.9"), node(driver=575, cuda="12.9"))
    upgraded = node(driver=580, cuda="13.0", schedulable=False)
    assert chosen(upgraded, node(driver=575, cuda="12.9"), known=before) == before
    assert choose_pool([upgraded, node(product=H200)], "sm90", {}, before) is None


def test_only_nodes_that_the_spec_allows_count() -> None:
    there, full = node(zone="a"), node(zone="b", driver=590, cuda="14.0")
    assert chosen(there, full, zone="a").driver.branch == 580
    assert choose_pool([there], "sm90", {"zone": "c"}) is None
    assert choose_pool([there], "sm100", {}) is None
    assert choose_pool([node(schedulable=False)], "sm90", {}) is None


def test_a_pool_is_recorded_and_remembered_whole() -> None:
    pool = chosen(node())
    assert GpuPool.of(pool.recorded()) == pool
    assert pool.platform == {"gpuProduct": H100, "driver": "580", "cuda": "13.0"}
