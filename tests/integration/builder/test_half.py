"""The network that is compiled in half precision computes what the float32 network computes.

A plan needs a GPU, but its graph does not: ONNX Runtime runs float16 graphs on a CPU by converting
around each operator, which rounds every intermediate value as a GPU would store it.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.checkpoint.directory import Directory, read_tensors
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.ir import ElementType, Graph
from pitcrew_builder.graph.precision import in_half
from pitcrew_builder.manifest import ResolvedShapes
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import Attention, ComputeCapability, Products, TensorRtPlan
from pitcrew_builder.targets.onnx_files import GRAPH, write_onnx
from pitcrew_builder.targets.target import Network
from pitcrew_builder.targets.trt.kernel_choice import with_joined_products, with_own_kernels
from tests.integration.builder.plans import GOLDENS

PAGE = 8
SHAPES = ResolvedShapes(max_batch_size=2, max_sequence_length=128, kv_page_size=PAGE)
CHECKPOINTS = sorted(path.parent for path in GOLDENS.glob("*/config.json"))
NAMES = [path.name for path in CHECKPOINTS]
OWN_KERNELS = TensorRtPlan(
    compute_capability=ComputeCapability.SM90,
    attention=Attention.KERNEL,
    products=Products.KERNEL,
)


def _config(checkpoint: Path) -> DecoderConfig:
    raw = json.loads((checkpoint / "config.json").read_text())
    return FAMILIES[raw["model_type"]].config.model_validate(raw)


def _drawn(checkpoint: Path) -> Graph:
    config = _config(checkpoint)
    return FAMILIES[config.model_type].graph(config, SHAPES)


def _first_position(checkpoint: Path, length: int) -> int:
    """What stands for position 0 in a text of so many tokens."""
    longest = SHAPES.max_sequence_length
    return longest if length <= _config(checkpoint).short_length(longest) else 0


def _open(root: Path, checkpoint: Path, graph: Graph) -> onnxruntime.InferenceSession:
    network = Network(graph, read_tensors(Directory.of(checkpoint)))
    write_onnx(root, "rank0", network, {"tag": checkpoint.name}, Tracker(lambda _: None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(root / "rank0" / GRAPH), options, providers=["CPUExecutionProvider"]
    )


def _compared(
    root: Path, checkpoint: Path, graph: Graph
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Logits of the last token of each prompt, and those of the reference."""
    with np.load(checkpoint / "expected.npz") as expected:
        prompts, wanted = expected["prompt"].astype(np.int64), expected["logits"][:, -1]
    first_position = _first_position(checkpoint, prompts.shape[1])
    return _logits(_open(root, checkpoint, graph), prompts, first_position), wanted


def _logits(
    session: onnxruntime.InferenceSession, prompts: npt.NDArray[np.int64], first_position: int
) -> npt.NDArray[np.float32]:
    """Prefill all but the last token, then decode it over the pages: logits [2, vocab]."""
    rows, length = prompts.shape
    blocks = -(-length // PAGE)
    tables = np.arange(rows * blocks, dtype=np.int64).reshape(rows, blocks)[:, ::-1]
    pools = {
        item.name: np.zeros((rows * blocks, *item.shape[1:]), np.float16)
        for item in session.get_inputs()
        if "_pool." in item.name
    }
    names = [item.name for item in session.get_outputs()]
    known = {item.name for item in session.get_inputs()}

    def step(start: int, stop: int) -> dict[str, npt.NDArray[np.float32]]:
        feeds = {
            "input_ids": prompts[:, start:stop],
            "positions": np.tile(first_position + np.arange(start, stop), (rows, 1)),
            "block_tables": tables[:, : -(-start // PAGE)],
            "context_lengths": np.full(rows, start, dtype=np.int64),
            "logit_indices": np.full((rows, 1), stop - start - 1, dtype=np.int64),
            **pools,
        }
        outputs = session.run(names, {key: feeds[key] for key in feeds if key in known})
        return dict(zip(names, outputs, strict=True))

    first = step(0, length - 1)
    slots = np.arange(length - 1)
    for name, pool in pools.items():
        new = first[f"new_{name.split('_pool.')[0]}s.{name.split('.')[1]}"]
        pool[tables[:, slots // PAGE], slots % PAGE] = new
    return step(length - 1, length)["logits"][:, 0]


@pytest.mark.parametrize("name", NAMES)
def test_float16_agrees_with_the_reference(name: str, tmp_path: Path) -> None:
    checkpoint = GOLDENS / name
    found, wanted = _compared(
        tmp_path, checkpoint, in_half(_drawn(checkpoint), ElementType.FLOAT16)
    )
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() < 2e-2 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3", "mixtral", "gpt-oss"])
def test_the_functions_that_kernels_compute_mean_the_same(name: str, tmp_path: Path) -> None:
    checkpoint = GOLDENS / name
    graph = with_joined_products(_drawn(checkpoint), OWN_KERNELS)
    graph = with_own_kernels(in_half(graph, ElementType.FLOAT16), OWN_KERNELS, {})
    called = {node.op for node in graph.nodes if node.domain == "llm"}
    assert {"Product", "RmsNorm"} <= called
    assert not [node.name for node in graph.nodes if node.op in ("Gemm", "RMSNormalization")]
    found, wanted = _compared(tmp_path, checkpoint, graph)
    assert np.abs(found - wanted).max() < 2e-2 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", [ElementType.FLOAT16, ElementType.BFLOAT16])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_nothing_stays_float32_but_the_logits(family: str, kind: ElementType) -> None:
    checkpoint = next(
        path
        for path in CHECKPOINTS
        if json.loads((path / "config.json").read_text())["model_type"] == family
    )
    graph = in_half(_drawn(checkpoint), kind)
    float32 = ElementType.FLOAT32
    assert [port.name for port in (*graph.inputs, *graph.outputs) if port.type is float32] == [
        "logits"
    ]
    assert not [weight.name for weight in graph.weights if weight.type is float32]
    assert not [item.name for item in graph.literals if item.array.dtype == np.float32]
    to_float = [
        node.name
        for node in graph.nodes
        if node.op == "Cast" and node.attribute("to") == onnx.TensorProto.FLOAT
    ]
    assert all(name == "logits" or name.endswith("/widen") for name in to_float), to_float
