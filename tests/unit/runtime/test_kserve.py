"""Tensors and inferences of KServe's protocol, without a wire."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.kserve import grpc_wire as wire
from pitcrew_runtime.kserve.inference import Inference, outputs, parse
from pitcrew_runtime.kserve.protocol import inference_pb2 as pb
from pitcrew_runtime.kserve.rpc import KServeGrpc
from pitcrew_runtime.kserve.tensors import BYTES, Tensor, checked, from_raw, to_raw
from pitcrew_runtime.server.choice import Delta
from pitcrew_runtime.server.formats import Usage
from pitcrew_runtime.server.keys import Keyring

ROOT = Path(__file__).parents[3] / "runtime"
TEXT = Tensor("text_input", BYTES, (1,), ["Hail"])

TENSORS = st.one_of(
    st.tuples(st.just(BYTES), st.lists(st.text(max_size=9), max_size=5)),
    st.tuples(st.just("BOOL"), st.lists(st.booleans(), max_size=5)),
    st.tuples(st.just("UINT32"), st.lists(st.integers(0, 2**32 - 1), max_size=5)),
    st.tuples(st.just("FP64"), st.lists(st.floats(allow_nan=False), max_size=5)),
)


@given(TENSORS)
def test_raw_tensors_come_back(made: tuple[str, list[Any]]) -> None:
    datatype, values = made
    tensor = Tensor("t", datatype, (len(values),), values)
    assert from_raw("t", datatype, [len(values)], to_raw(tensor)) == tensor


@given(st.sampled_from([BYTES, "BOOL", "INT32", "FP16", "?"]), st.lists(st.integers()), st.binary())
def test_any_bytes_are_a_tensor_or_a_fault(datatype: str, shape: list[int], raw: bytes) -> None:
    with suppress(InvalidRequest):
        assert len(to_raw(from_raw("t", datatype, shape, raw))) == len(raw)


@pytest.mark.parametrize(
    ("shape", "values"), [([1] * 9, ["x"]), ([5000], ["x"] * 5000)], ids=["dimensions", "elements"]
)
def test_tensors_are_small(shape: list[int], values: list[str]) -> None:
    """The product of a shape of a million twos took minutes."""
    with pytest.raises(InvalidRequest, match="8 dimensions and 4096 elements"):
        checked("t", BYTES, shape, values)
    with pytest.raises(InvalidRequest, match="8 dimensions and 4096 elements"):
        from_raw("t", BYTES, shape, to_raw(Tensor("t", BYTES, (), values)))


@pytest.mark.parametrize("what", ["inputs", "outputs", "parameters"])
def test_messages_have_few_parts(what: str) -> None:
    request = pb.ModelInferRequest()
    for number in range(200):
        if what == "inputs":
            request.inputs.add(name=f"t{number}", datatype=BYTES, shape=[0])
        elif what == "outputs":
            request.outputs.add(name=f"t{number}")
        else:
            request.parameters[f"t{number}"].bool_param = True
    with pytest.raises(InvalidRequest, match=f"{what}: 200 are more than"):
        wire.tensors(request), wire.wanted(request), wire.parameters(request)


@pytest.mark.parametrize(
    "text",
    ['{"guided_regex": "\\ud800"}', '{"guided_choice": ["\\ud800"]}', '{"top_p": NaN}', "[" * 9999],
)
def test_sampling_parameters_are_json(text: str) -> None:
    """Half a surrogate is no text: it was a fault of the server wherever it is encoded."""
    with pytest.raises(InvalidRequest, match="sampling_parameters: not JSON"):
        asked({}, Tensor("sampling_parameters", BYTES, (1,), [text]))


def asked(parameters: dict[str, Any], *more: Tensor) -> Inference:
    return parse("model", [TEXT, *more], parameters, (), 3)


def test_sampling_parameters_have_vllms_names_and_may_be_text() -> None:
    text = Tensor("sampling_parameters", BYTES, (1,), ['{"temperature": "0.5", "max_tokens": "7"}'])
    found = asked({"top_k": 3, "max_tokens": 9, "stop": "end"}, text)
    assert (found.body.temperature, found.body.top_k, found.body.max_tokens) == (0.5, 3, 9)
    assert found.body.stops == ("end",)
    assert found.body.echo


@pytest.mark.parametrize(
    ("wanted", "given"),
    [([], {"text_output"}), (["finish_reason"], {"finish_reason"})],
    ids=["none", "one"],
)
def test_outputs_are_those_that_are_asked_for(wanted: list[str], given: set[str]) -> None:
    assert parse("model", [TEXT], {}, wanted).outputs == given
    flag = Tensor("return_token_ids", "BOOL", (1,), [True])
    assert parse("model", [TEXT, flag], {}, wanted).outputs == given | {"token_ids"}


def test_tritons_own_parameters_are_terms() -> None:
    found = asked({"priority": 2, "timeout": 1_500_000, "stream": True})
    assert (found.terms.tenant, found.terms.priority, found.terms.timeout) == ("3:", 2, 1.5)
    assert found.stream
    assert not found.body.echo


def test_terms_among_the_sampling_parameters_are_kept() -> None:
    """With the units of the completions' body."""
    text = '{"priority": -1, "timeout": 2.5, "cache_salt": "mine"}'
    found = asked({}, Tensor("sampling_parameters", BYTES, (1,), [text]))
    assert (found.terms.tenant, found.terms.priority, found.terms.timeout) == ("3:mine", -1, 2.5)


def test_texts_of_one_request_have_one_set_of_parameters() -> None:
    texts = Tensor("text_input", BYTES, (2, 1), ["Hail", "thee"])
    alike = Tensor("sampling_parameters", BYTES, (2, 1), ['{"top_k": 3}'] * 2)
    assert parse("model", [texts, alike], {}, ()).body.top_k == 3
    differing = Tensor("sampling_parameters", BYTES, (2, 1), ['{"top_k": 3}', "{}"])
    with pytest.raises(InvalidRequest, match="one value holds for all texts"):
        parse("model", [texts, differing], {}, ())


@pytest.mark.parametrize(
    ("shape", "count", "n", "expected"),
    [((1,), 1, 1, (1,)), ((1,), 1, 3, (3,)), ((2,), 2, 2, (4,)), ((2, 1), 2, 3, (2, 3))],
)
def test_outputs_have_the_shape_of_the_texts(
    shape: tuple[int, ...], count: int, n: int, expected: tuple[int, ...]
) -> None:
    texts = Tensor("text_input", BYTES, shape, ["Hail"] * count)
    found = parse("model", [texts], {"n": n}, ["num_input_tokens", "text_output"])
    tensors = outputs(found, [Delta(index, "x") for index in range(count * n)], Usage(5, 6, 4))
    assert [one.name for one in tensors] == ["text_output", "num_input_tokens"]
    assert {one.shape for one in tensors} == {expected}
    assert tensors[1].values == [5] * count * n


def test_the_generated_messages_are_those_of_the_description(tmp_path: Path) -> None:
    source = "pitcrew_runtime/kserve/protocol/inference.proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT)]
    command += ["--python_out", str(tmp_path), "--pyi_out", str(tmp_path), source]
    subprocess.run(command, check=True, cwd=ROOT)
    for made in tmp_path.rglob("inference_pb2.*"):
        assert made.read_text() == (ROOT / made.relative_to(tmp_path)).read_text(), "make proto"


class Left:
    """What gRPC hands over of a client that has left: every write fails."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def write(self, response: object) -> None:
        raise grpc.aio.InternalError("nobody reads")


def test_a_client_that_leaves_its_stream_is_no_fault() -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"\xff\xff"

    async def served() -> None:
        service: Any = None
        await KServeGrpc(service, Keyring(())).stream(requests(), cast("Any", Left()))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(served())
