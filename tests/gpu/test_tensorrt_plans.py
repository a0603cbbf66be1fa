"""Target `tensorrt` on a GPU: the plan is built, opened by the driver, and is what it should be."""

import json
from pathlib import Path
from typing import Any

import pytest

from pitcrew_builder.report import Failed, FailureReason
from pitcrew_builder.targets.trt.library import TENSORRT
from tests.gpu.needs import GPU, PLANS
from tests.integration.builder.plans import GOLDENS, Workshop

pytestmark = PLANS


def _spec(
    precision: str = "fp16", capability: str | None = None, **options: object
) -> dict[str, object]:
    return {
        "target": "tensorrt",
        "precision": precision,
        # Less time for the search of kernels: what is tested is the same.
        "tensorrt": {"computeCapability": capability or GPU, "optimizationLevel": 0, **options},
    }


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("plans"))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["llama3", "qwen3", "mixtral", "gemma3", "gpt-oss"])
def test_a_plan_has_the_interface_of_its_graph(
    workshop: Workshop, name: str, precision: str
) -> None:
    path, manifest = workshop.publish(GOLDENS / name, **_spec(precision))
    trt = TENSORRT.load()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    interface = manifest.ranks[0]
    engine = runtime.deserialize_cuda_engine((path / interface.graph).read_bytes())
    assert engine is not None
    assert interface.plan is not None
    assert engine.num_optimization_profiles == len(interface.plan.profiles)
    tensors = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    wanted = set(interface.plan.profiles[0].shapes)
    for layer in range(manifest.model.layers):
        wanted |= {f"new_keys.{layer}", f"new_values.{layer}"}
    assert tensors == wanted | {"logits"}
    half = {"fp16": trt.float16, "bf16": trt.bfloat16}[precision]
    assert engine.get_tensor_dtype("key_pool.0") == half
    assert engine.get_tensor_dtype("logits") == trt.float32


def _anatomy(plan: Path) -> tuple[list[dict[str, Any]], int]:
    """The layers of a plan, in all of its profiles, and how many profiles there are."""
    trt = TENSORRT.load()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return json.loads(told)["Layers"], engine.num_optimization_profiles


def _of_type(layers: list[dict[str, Any]], word: str) -> list[str]:
    """Names of the layers whose type has the word."""
    return [layer["Name"] for layer in layers if word in layer["LayerType"].lower()]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["llama3", "mixtral"])
def test_our_kernel_computes_the_attention_of_every_layer(
    workshop: Workshop, name: str, precision: str
) -> None:
    path, manifest = workshop.publish(GOLDENS / name, **_spec(precision, attention="kernel"))
    layers, profiles = _anatomy(path / manifest.ranks[0].graph)
    plugins = _of_type(layers, "plugin")
    assert len(plugins) == manifest.model.layers * profiles, plugins


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_our_kernels_compute_all_products_and_norms(workshop: Workshop, precision: str) -> None:
    spec = _spec(precision, attention="kernel", products="kernel")
    path, manifest = workshop.publish(GOLDENS / "llama3", **spec)
    layers, profiles = _anatomy(path / manifest.ranks[0].graph)
    plugins = _of_type(layers, "plugin")
    # Attention, two norms and four products of each layer; the last norm and the LM head.
    wanted = 7 * manifest.model.layers + 2
    assert len(plugins) == wanted * profiles, plugins
    assert not _of_type(layers, "gemm")


def test_measured_times_are_kept(workshop: Workshop) -> None:
    workshop.publish(GOLDENS / "llama3", **_spec())
    (cache,) = (workshop.root / "cache" / "tensorrt").glob("*.cache")
    assert cache.stat().st_size > 0


def test_another_gpu_than_the_one_here_is_refused(workshop: Workshop) -> None:
    other = "sm80" if GPU != "sm80" else "sm90"
    outcome = workshop.build(GOLDENS / "llama3", **_spec(capability=other))
    assert isinstance(outcome, Failed)
    assert outcome.reason is FailureReason.INVALID_SPEC
    assert f"the GPU here is {GPU}" in outcome.message
