"""The form of the graph that decoding is served by has to decode as the one that is proven."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from pitcrew_builder.context_runner import ContextRunner
from pitcrew_builder.errors import ValidationFailed
from pitcrew_builder.manifest import GraphInterface, Manifest
from pitcrew_builder.network import Executable, Network, open_network, open_served
from pitcrew_builder.paged_runner import PagedRunner
from pitcrew_builder.proof.gate import check_served
from pitcrew_builder.proof.served import BATCHES, STEPS, Forms, compare_decoding
from pitcrew_builder.proof.windows import Windows
from pitcrew_builder.spec import Proof
from pitcrew_builder.validate import prove
from tests.unit.builder.engines import Engine

SAMPLE = Path(__file__).parents[3] / "samples" / "models" / "tiny-kjv"
SHAPES = {"maxBatchSize": 5, "maxSequenceLength": 128, "kvPageSize": 16}
LENGTHS = (90, 40, 61, 12, 77, 33, 50)
PROMPT = [5, 17, 3, 80, 41, 2, 9, 66]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tmp_path_factory.mktemp("served"), SAMPLE, shapes=SHAPES)


def _rescaled(model: ModelProto) -> None:
    """Scores of one layer are twice as large."""
    node = next(node for node in model.graph.node if node.op_type == "GroupQueryAttention")
    next(item for item in node.attribute if item.name == "scale").f *= 2


def _swapped(model: ModelProto) -> None:
    """Two layers read each other's keys."""
    first, second = [n for n in model.graph.node if n.op_type == "GroupQueryAttention"][:2]
    first.input[3], second.input[3] = second.input[3], first.input[3]


def _of_the_longest(model: ModelProto) -> None:
    """All sequences are as long as the longest: right alone, and wrong in company."""
    node = next(node for node in model.graph.node if node.name == "step/totals")
    most = onnx.helper.make_node("ReduceMax", ["context_lengths"], ["longest"], keepdims=1)
    like = onnx.helper.make_node("Expand", ["longest", "rows"], ["all_alike"])
    rows = onnx.helper.make_node("Shape", ["context_lengths"], ["rows"])
    node.input[0] = "all_alike"
    nodes = [rows, most, like, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


Spoil = Callable[[ModelProto], None]


def _spoiled(engine: Engine, spoil: Spoil) -> Executable:
    """The served form with a fault, beside the weights that it reads."""
    (rank,) = engine.manifest.ranks
    assert rank.contiguous is not None
    file = engine.path / rank.contiguous
    model = onnx.load(file, load_external_data=False)
    spoil(model)
    broken = file.with_name(f"{spoil.__name__}.onnx")
    broken.write_bytes(model.SerializeToString())
    return Executable(broken)


def _text(manifest: Manifest) -> Windows:
    """Rows of unlike length, so that a batch holds contexts of unlike length."""
    rng = np.random.default_rng(0)
    return Windows.of([rng.integers(1, manifest.model.vocab_size, n).tolist() for n in LENGTHS])


def _decoded(batch: int) -> int:
    rows = list(enumerate(LENGTHS[: BATCHES * batch]))
    begin = [max(1, length * (2 + index % batch % 3) // 6) for index, length in rows]
    return sum(min(STEPS, length - 1 - at) for (_, length), at in zip(rows, begin, strict=True))


def _forms(engine: Engine) -> Forms:
    ranks = [(engine.path, rank) for rank in engine.manifest.ranks]
    served, manifest = open_served(ranks), engine.manifest
    assert served is not None
    return Forms(manifest.model, manifest.identity.shapes, served, open_network(ranks))


def _prove(engine: Engine, served: Network) -> None:
    ranks = [(engine.path, rank) for rank in engine.manifest.ranks]
    model, page = engine.manifest.model, engine.manifest.identity.shapes.kv_page_size
    runner = PagedRunner(open_network(ranks), model, page, capacity=24)
    contexts = ContextRunner(served, model, 24)
    prove(runner, PROMPT, 16, lambda _: None, served=contexts)


def test_both_forms_decode_alike_in_every_batch(engine: Engine) -> None:
    forms = _forms(engine)
    scores = compare_decoding(_text(engine.manifest), forms, lambda _: None)
    assert [score.batch for score in scores] == [1, 4, 5]
    # Four texts alone, all seven by fours and by fives, each for as long as it lasts.
    assert [score.tokens for score in scores] == [_decoded(batch) for batch in (1, 4, 5)]
    for score in scores:
        assert score.kl_divergence < 1e-6
        assert score.top1_agreement == 1
        assert score.perplexity == pytest.approx(score.reference_perplexity, rel=1e-4)
    check_served(scores, Proof())


@pytest.mark.parametrize("spoil", [_rescaled, _swapped, _of_the_longest])
def test_a_form_that_decodes_otherwise_is_refused_with_its_figures(
    spoil: Spoil, engine: Engine
) -> None:
    forms = replace(_forms(engine), served=_spoiled(engine, spoil))
    scores = compare_decoding(_text(engine.manifest), forms, lambda _: None)
    with pytest.raises(ValidationFailed, match=r"contiguous\.onnx.*KL divergence is"):
        check_served(scores, Proof())


@pytest.mark.parametrize("spoil", [_rescaled, _swapped])
def test_without_prompts_the_canary_refuses_it(spoil: Spoil, engine: Engine) -> None:
    with pytest.raises(ValidationFailed, match=r"over contexts \(contiguous\.onnx\) differs"):
        _prove(engine, _spoiled(engine, spoil))


def test_a_sound_form_passes_the_canary(engine: Engine) -> None:
    _prove(engine, _forms(engine).served)


def test_an_engine_without_that_form_is_judged_by_the_paged_one(engine: Engine) -> None:
    assert open_served([(engine.path, GraphInterface(graph="rank0/model.onnx"))]) is None
