"""Triton's own clients against a real server, over HTTP and gRPC."""

import json
import queue
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.integration.runtime.conftest import Engines, Serve
from tests.integration.runtime.servers import DEADLINE, Server, serving, wait_until

PROMPT = "And God said, Let there be"
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kserve")
    with serving(engines("tiny-kjv"), folder, "--grpc-port", "0") as found:
        yield found


@pytest.fixture(scope="module")
def rpc(server: Server) -> Iterator[triton_grpc.InferenceServerClient]:
    port = re.search(r"gRPC on \S+ port (\d+)", server.log.read_text())
    assert port is not None
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{port[1]}") as client:
        yield client


@pytest.fixture
def web(server: Server) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def inputs(library: Any, texts: list[str], **flags: Any) -> list[Any]:  # noqa: ANN401
    found = library.InferInput("text_input", [len(texts)], "BYTES")
    found.set_data_from_numpy(np.array([text.encode() for text in texts], object))
    tensors = [found]
    for name, value in flags.items():
        is_text = isinstance(value, str)
        tensor = library.InferInput(name, [1], "BYTES" if is_text else "BOOL")
        tensor.set_data_from_numpy(
            np.array([value.encode()], object) if is_text else np.array([value])
        )
        tensors.append(tensor)
    return tensors


def strings(result: Any, name: str = "text_output") -> list[str]:  # noqa: ANN401
    values = result.as_numpy(name).ravel()
    return [value if isinstance(value, str) else value.decode() for value in values]


@pytest.fixture(scope="module")
def continuation(server: Server) -> str:
    with server.client as client:
        answer = client.completions.create(model="model", prompt=PROMPT, **GREEDY)  # type: ignore[call-overload]
    text: str = answer.choices[0].text
    return text


@pytest.mark.parametrize("library", [triton_http, triton_grpc], ids=["http", "grpc"])
def test_a_server_describes_itself(
    library: Any,  # noqa: ANN401
    web: triton_http.InferenceServerClient,
    rpc: triton_grpc.InferenceServerClient,
) -> None:
    client = web if library is triton_http else rpc
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("model")
    more = {} if library is triton_http else {"as_json": True}
    assert client.get_server_metadata(**more)["name"] == "pitcrew"
    metadata = client.get_model_metadata("model", **more)
    assert {"name": "text_input", "datatype": "BYTES", "shape": ["-1"] if more else [-1]} in (
        metadata["inputs"]
    )
    config = client.get_model_config("model", **more)
    config = config.get("config", config)
    assert config["model_transaction_policy"]["decoupled"] is True
    index = client.get_model_repository_index(**more)
    assert (index["models"] if more else index)[0]["state"] == "READY"
    with pytest.raises(InferenceServerException, match="'other' is not served here"):
        client.get_model_metadata("other")


@pytest.mark.parametrize("binary", [True, False])
def test_infer_over_http(
    web: triton_http.InferenceServerClient, continuation: str, binary: bool
) -> None:
    wanted = [
        triton_http.InferRequestedOutput(name, binary_data=binary)
        for name in ("text_output", "finish_reason", "num_output_tokens", "token_ids")
    ]
    texts = inputs(triton_http, [PROMPT, "In the beginning"], exclude_input_in_output=True)
    for tensor in texts if not binary else ():
        value = [PROMPT, "In the beginning"] if tensor.name() == "text_input" else [True]
        kind = object if tensor.name() == "text_input" else bool
        tensor.set_data_from_numpy(np.array(value, kind), binary_data=False)
    result = web.infer("model", texts, outputs=wanted, request_id="7", parameters=GREEDY)
    assert strings(result)[0] == continuation
    assert strings(result, "finish_reason") == ["length", "length"]
    assert result.as_numpy("num_output_tokens").tolist() == [24, 24]
    assert len(json.loads(strings(result, "token_ids")[1])) == 12
    assert result.get_response()["id"] == "7"


def test_infer_over_grpc(rpc: triton_grpc.InferenceServerClient, continuation: str) -> None:
    sampling = json.dumps({"temperature": "0", "max_tokens": "12", "n": 2})
    texts = inputs(triton_grpc, [PROMPT], sampling_parameters=sampling, return_finish_reason=True)
    result = rpc.infer("model", texts)
    assert strings(result) == [PROMPT + continuation] * 2
    assert strings(result, "finish_reason") == ["length"] * 2


def streamed(
    rpc: triton_grpc.InferenceServerClient, requests: dict[str, dict[str, Any]]
) -> dict[str, list[Any]]:
    """All responses by request id, until each has ended."""
    mail: queue.Queue[tuple[Any, Any]] = queue.Queue()
    found: dict[str, list[Any]] = {name: [] for name in requests}
    rpc.start_stream(lambda result, error: mail.put((result, error)))
    try:
        for name, request in requests.items():
            rpc.async_stream_infer(
                "model", request_id=name, enable_empty_final_response=True, **request
            )
        ended = 0
        while ended < len(requests):
            result, error = mail.get(timeout=60)
            if error is not None:
                ended += 1
                found.setdefault("", []).append(str(error))
                continue
            response = result.get_response()
            found[response.id].append(result)
            ended += response.parameters["triton_final_response"].bool_param
    finally:
        rpc.stop_stream()
    return found


def test_streams_over_grpc(rpc: triton_grpc.InferenceServerClient, continuation: str) -> None:
    request = {"inputs": inputs(triton_grpc, [PROMPT], stream=True), "parameters": GREEDY}
    bad = {"inputs": inputs(triton_grpc, [PROMPT], stream=True), "parameters": {"top_p": 7.0}}
    found = streamed(rpc, {"one": request, "two": request, "bad": bad})
    for name in ("one", "two"):
        *pieces, empty = found[name]
        assert len(pieces) > 6
        assert "".join(text for piece in pieces for text in strings(piece)) == continuation
        assert empty.as_numpy("text_output") is None
    assert found["bad"] == []
    assert "top_p: Input should be less than or equal to 1" in found[""][0]


def test_names_may_have_slashes(engines: Engines, tmp_path: Path) -> None:
    """As those of the hub, which are the default of an LLMDeployment."""
    name = "someone/tiny.kjv"
    with (
        serving(engines("tiny-kjv"), tmp_path, name=name) as found,
        triton_http.InferenceServerClient(f"127.0.0.1:{found.port}") as client,
    ):
        for version in ("", "1"):
            assert client.is_model_ready(name, version)
            assert client.get_model_metadata(name, version)["name"] == name
            assert client.get_model_config(name, version)["name"] == name
            asked = inputs(triton_http, [PROMPT])
            assert strings(client.infer(name, asked, version, parameters={"max_tokens": 1}))
        missing = httpx.get(f"{found.url}/v2/models/{name}/nothing")
        assert missing.status_code == 404
        assert "is not served here" in missing.json()["error"]
        for path in ("v1/models", "v2/models"):
            assert found.get(f"/{path}/{name}").status_code == 200


def test_a_cancelled_stream_is_computed_no_further(
    server: Server, rpc: triton_grpc.InferenceServerClient
) -> None:
    mail: queue.Queue[Any] = queue.Queue()
    rpc.start_stream(lambda result, error: mail.put(result))
    long = {"max_tokens": 900, "ignore_eos": True}
    rpc.async_stream_infer("model", inputs(triton_grpc, [PROMPT], stream=True), parameters=long)
    mail.get(timeout=60)
    rpc.stop_stream(cancel_requests=True)
    wait_until(server.empty, "the pages are free")


def test_who_leaves_generate_stream_before_it_begins(engines: Engines, serve: Serve) -> None:
    """While it waits for its turn, and not only once there is something to send."""
    with serve(engines("tiny-kjv"), "--max-batch-size", "1") as server:
        long = {"model": "model", "prompt": PROMPT, "max_tokens": 900, "ignore_eos": True}
        url = f"{server.url}/v2/models/model/generate_stream"
        short = {"text_input": PROMPT, "parameters": {"max_tokens": 1}}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=long | {"stream": True}):
            with suppress(httpx.ReadTimeout):
                httpx.post(url, json=short, timeout=0.2)
            wait_until(lambda: server.metric("pitcrew_requests_waiting") == 0, "nobody waits")
        wait_until(server.empty, "the pages are free")
        ended = server.get("/metrics").text
        assert 'pitcrew_requests_finished_total{reason="length"} 0.0' in ended
        assert 'pitcrew_requests_finished_total{reason="cancelled"} 2.0' in ended


def test_generate(server: Server, continuation: str) -> None:
    url = f"{server.url}/v2/models/model/generate"
    body = {"text_input": PROMPT, "parameters": GREEDY, "exclude_input_in_output": True}
    answer = httpx.post(url, json=body).json()
    assert answer == {"model_name": "model", "model_version": "1", "text_output": continuation}
    del body["exclude_input_in_output"]
    lines = httpx.post(url + "_stream", json=body).text.split("\n\n")[:-1]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert "".join(event["text_output"] for event in events) == continuation
    assert len(events) > 6


BAD: list[tuple[dict[str, Any], str]] = [
    ({"parameters": {"temperature": -1}}, "temperature: "),
    ({"parameters": {"prompt": "x"}}, "prompt: no sampling parameter"),
    ({"parameters": {"guided_regex": "("}}, "guided_regex: "),
    ({"parameters": {"timeout": -1}}, "timeout: "),
    ({"sampling_parameters": "["}, "sampling_parameters: not JSON"),
    ({"stream": "yes"}, "stream: the datatype is BYTES, BOOL is needed"),
    ({"image": "x"}, "'image' is no input of this model"),
    ({"image": {"x": 10**40}}, "'image' is no input of this model"),
    ({"text_input": ""}, "prompt: there is no token"),
    ({f"x{number}": True for number in range(40)}, "40 inputs beside text_input"),
]


@pytest.mark.parametrize(("change", "says"), BAD, ids=lambda value: str(value)[:40])
def test_bad_requests_are_told_in_the_protocols_words(
    server: Server, change: dict[str, Any], says: str
) -> None:
    for path in ("generate", "generate_stream"):
        body = {"text_input": PROMPT, **change}
        answer = httpx.post(f"{server.url}/v2/models/model/{path}", json=body)
        assert answer.status_code == 400
        assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("header", "tensor"),
    [
        ("99999999", {"parameters": {"binary_data_size": 4}}),
        ("-1", {"parameters": {"binary_data_size": 4}}),
        (None, {"parameters": {"binary_data_size": 1 << 40}}),
        (None, {"parameters": {"binary_data_size": -4}}),
        ("exact", {"parameters": {"binary_data_size": 6}}),
        (None, {"shape": [1 << 62, 1 << 62], "data": ["x"]}),
        (None, {"shape": [-1], "data": ["x"]}),
        (None, {"datatype": "FP16", "data": ["x"]}),
        (None, {"data": [[[["x"]], 7]]}),
        (None, {"data": [7]}),
    ],
)
def test_tensors_that_lie_about_their_size(
    server: Server, header: str | None, tensor: dict[str, Any]
) -> None:
    """CVE-2025-23310's class: lengths that a client writes decide no allocation and no read."""
    described = {"name": "text_input", "datatype": "BYTES", "shape": [1], **tensor}
    document = json.dumps({"inputs": [described]}).encode()
    length = str(len(document)) if header == "exact" else header
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    content = document + b"\xff\xff\xff\x7fab"
    url = f"{server.url}/v2/models/model/infer"
    answer = httpx.post(url, content=content if header else document, headers=headers)
    assert answer.status_code == 400, answer.text
    assert server.get("/health/live").status_code == 200


def test_bytes_that_are_no_message_are_the_clients_fault(server: Server) -> None:
    port = re.search(r"gRPC on \S+ port (\d+)", server.log.read_text())
    assert port is not None
    service = "/inference.GRPCInferenceService/"
    with grpc.insecure_channel(f"127.0.0.1:{port[1]}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(service + "ModelInfer")(b"\xff\xff", timeout=DEADLINE)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        stream = channel.stream_stream(service + "ModelStreamInfer")
        (raw,) = stream(iter([b"\xff\xff"]), timeout=DEADLINE)
    assert b"this is no ModelInferRequest" in raw
    assert "Traceback" not in server.log.read_text()


def test_an_input_is_given_once(server: Server) -> None:
    text = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"]}
    answer = httpx.post(f"{server.url}/v2/models/model/infer", json={"inputs": [text, text]})
    assert answer.status_code == 400
    assert answer.json()["error"] == "text_input: given twice; send it once"
