"""Exported engines under the real Triton server, asked by Triton's own client and over HTTP."""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.triton.cli import main
from tests.integration.runtime.conftest import Engines
from tests.integration.runtime.servers import DEADLINE, Server, token_ids, wait_until
from tests.integration.runtime.tritonserver import Triton, tritonserver

PROMPT = "And God said, Let there be"
PROMPTS = [PROMPT, "In the beginning", "Thou shalt not", "The king", "O Romeo", "Hail", "Now", "I"]
GREEDY = {"temperature": 0, "max_tokens": 12}
TP2 = ("--tensor-parallel", "2")


@pytest.fixture(scope="module")
def triton(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    folder = tmp_path_factory.mktemp("triton")
    export(engines("tiny-kjv"), folder / "repository", "model")
    with tritonserver(folder / "repository", "model", folder) as found:
        yield found


@pytest.fixture(scope="module")
def continuation(kjv: Server) -> str:
    with kjv.client as client:
        answer = client.completions.create(model="model", prompt=PROMPT, **GREEDY)  # type: ignore[call-overload]
    text: str = answer.choices[0].text
    return text


def test_the_server_describes_the_model(triton: Triton) -> None:
    with triton_grpc.InferenceServerClient(triton.grpc) as client:
        config = client.get_model_config("model", as_json=True)["config"]
        metadata = client.get_model_metadata("model", as_json=True)
    assert config["max_batch_size"] == 128
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["backend"] == "python"
    shape = ["-1", "1"]
    assert {"name": "text_input", "datatype": "BYTES", "shape": shape} in metadata["inputs"]
    assert [one["name"] for one in metadata["outputs"]][:2] == ["text_output", "finish_reason"]


def test_generate_over_http(triton: Triton, continuation: str) -> None:
    answer = generate(triton, exclude_input_in_output=True, return_num_output_tokens=True, **GREEDY)
    assert answer.json()["text_output"] == continuation
    assert answer.json()["num_output_tokens"] == 12
    assert generate(triton, **GREEDY).json()["text_output"] == PROMPT + continuation
    body = {"text_input": PROMPT, "stream": True, **GREEDY}
    with httpx.stream("POST", f"{triton.url}/v2/models/model/generate_stream", json=body) as http:
        events = [json.loads(line[6:]) for line in http.iter_lines() if line]
    assert len(events) > 4
    assert "".join(event["text_output"] for event in events) == continuation


def test_a_stream_over_grpc(triton: Triton, continuation: str) -> None:
    with streaming(triton) as (client, answers):
        sampling = json.dumps({"temperature": "0", "max_tokens": "12"})
        client.async_stream_infer(
            "model",
            inputs([PROMPT], stream=True, sampling_parameters=sampling, return_finish_reason=True),
            request_id="7",
            enable_empty_final_response=True,
        )
        results = until_final(answers)
    assert "".join(text for one in results for text in strings(one)) == continuation
    assert {one.get_response().id for one in results} == {"7"}
    assert strings(results[-1], "finish_reason") == ["length"]


def test_texts_of_one_request(triton: Triton, continuation: str) -> None:
    with streaming(triton) as (client, answers):
        flags = {"exclude_input_in_output": True, "return_num_input_tokens": True}
        tensors = inputs(PROMPTS[:3], **flags)
        client.async_stream_infer("model", tensors, parameters={**GREEDY, "n": 2})
        result, error = answers.get(timeout=DEADLINE)
    assert error is None
    assert result.as_numpy("text_output").shape == (3, 2)
    assert strings(result)[:2] == [continuation, continuation]
    assert result.as_numpy("num_input_tokens").shape == (3, 2)


def test_a_crowd_gets_the_tokens_of_pitcrew_serve(triton: Triton, kjv: Server) -> None:
    """24 streams at a time, some sampled with a seed."""
    asked = [
        {"max_tokens": 8 + number % 17, "temperature": number % 3 / 2, "seed": number}
        for number in range(24)
    ]
    texts = [PROMPTS[number % len(PROMPTS)] for number in range(24)]
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda *one: streamed_tokens(triton, *one), texts, asked))
    with kjv.client as client:
        for text, sampling, tokens in zip(texts, asked, found, strict=True):
            answer = client.completions.create(
                model="model", prompt=text, extra_body={"return_token_ids": True, **sampling}
            )
            assert token_ids(answer) == [tokens]


def test_a_request_joins_the_running_batch(triton: Triton, continuation: str) -> None:
    """A short one that comes later ends while a long one is under way."""
    with streaming(triton) as (client, answers):
        long = {"max_tokens": 900, "ignore_eos": True, "temperature": 0}
        client.async_stream_infer("model", inputs(["The"], stream=True), "1", parameters=long)
        answers.get(timeout=DEADLINE)
        short = inputs([PROMPT], exclude_input_in_output=True)
        client.async_stream_infer("model", short, request_id="short", parameters=GREEDY)
        before = 0
        while True:
            result, error = answers.get(timeout=DEADLINE)
            assert error is None
            if result.get_response().id == "short":
                break
            before += 1
        assert strings(result) == [continuation]
        assert before < 800


@pytest.mark.parametrize("over", ["grpc", "http"])
def test_who_leaves_is_computed_for_no_further(triton: Triton, over: str) -> None:
    before = finished(triton, "cancelled")
    # Long enough that it cannot end by itself before anybody notices.
    sampling = {"max_tokens": 900, "ignore_eos": True, "temperature": 0, "n": 8}
    if over == "grpc":
        with streaming(triton) as (client, answers):
            client.async_stream_infer("model", inputs(["The"], stream=True), parameters=sampling)
            answers.get(timeout=DEADLINE)
            client.stop_stream(cancel_requests=True)
    else:
        body = {"text_input": "The", "stream": True, **sampling}
        url = f"{triton.url}/v2/models/model/generate_stream"
        with httpx.stream("POST", url, json=body) as http:
            next(http.iter_lines())
    # At least: what another test has left may be counted now.
    wait_until(lambda: finished(triton, "cancelled") >= before + 8, "all are cancelled")
    assert generate(triton, **GREEDY).status_code == 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"sampling_parameters": "{"}, "sampling_parameters: not JSON"),
        ({"guided_regex": "("}, "regex"),
        ({"nonsense": 1}, "nonsense"),
        ({"max_tokens": 1 << 40}, "max_tokens"),
        ({"stream": True, "exclude_input_in_output": False}, "exclude_input_in_output"),
        ({"lora_name": "nobody"}, "not served here"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    triton: Triton, fields: dict[str, Any], message: str
) -> None:
    answer = generate(triton, **fields)
    assert answer.status_code in (400, 404)
    assert message in answer.json()["error"]


def test_a_bad_request_in_a_stream_harms_no_other(triton: Triton, continuation: str) -> None:
    with streaming(triton) as (client, answers):
        bad = inputs([PROMPT], stream=True, sampling_parameters='{"temperature": -1}')
        good = inputs([PROMPT], exclude_input_in_output=True)
        not_text = inputs([PROMPT])
        not_text[0].set_data_from_numpy(np.array([[b"\xff\xfe"]], object))
        client.async_stream_infer("model", bad, request_id="bad")
        client.async_stream_infer("model", not_text, request_id="not-text")
        client.async_stream_infer("model", good, request_id="good", parameters=GREEDY)
        results = [answers.get(timeout=DEADLINE) for _ in range(3)]
    errors = sorted(str(error) for _, error in results if error is not None)
    assert "temperature" in errors[0]
    assert "not UTF-8" in errors[1]
    assert [strings(result) for result, error in results if error is None] == [[continuation]]


def test_ranks_under_triton_and_a_shutdown_that_drains(
    engines: Engines, tmp_path: Path, continuation: str
) -> None:
    export(engines("tiny-kjv", *TP2), tmp_path / "repository", "two", "--link")
    answers: list[str] = []

    def ask() -> None:
        # Triton is told the metrics once a second: the answer has to take longer than that.
        answer = generate(server, model="two", max_tokens=900, ignore_eos=True)
        answers.append(answer.json()["text_output"])

    with tritonserver(tmp_path / "repository", "two", tmp_path) as server:
        answer = generate(server, model="two", **GREEDY)
        assert answer.json()["text_output"] == PROMPT + continuation
        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: server.metric("pitcrew_requests_running") == 1, "the request runs")
        ranks = descendants(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0
        asking.join(DEADLINE)
        assert "successfully unloaded 'two'" in server.log.read_text()
    assert len(answers[0]) > len(PROMPT)
    assert len(ranks) == 2
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


@pytest.mark.parametrize("on_fault", ["tell", "end-server"])
def test_an_engine_that_is_lost(engines: Engines, tmp_path: Path, on_fault: str) -> None:
    options = ("--link", "--on-fault", on_fault)
    export(engines("tiny-kjv", *TP2), tmp_path / "repository", "two", *options)
    with tritonserver(tmp_path / "repository", "two", tmp_path) as server:
        rank = descendants(server.process.pid)[-1]
        os.kill(rank, signal.SIGKILL)
        wait_until(lambda: "The model cannot go on" in server.log.read_text(), "it is noticed")
        if on_fault == "tell":
            answer = generate(server, model="two", **GREEDY)
            assert answer.is_error
            assert "cannot go on" in answer.json()["error"]
        else:
            server.process.wait(DEADLINE)
            assert "Ending the server" in server.log.read_text()
            assert not Path(f"/proc/{rank}").exists()


def test_an_engine_that_was_altered_is_told_by_the_server(engines: Engines, tmp_path: Path) -> None:
    export(engines("tiny-kjv"), tmp_path / "repository", "model")
    text = tmp_path / "repository/model/1/engine/tokenizer/tokenizer.json"
    text.write_bytes(text.read_bytes().replace(b"a", b"b", 1))
    with tritonserver(tmp_path / "repository", "model", tmp_path, wait=False) as server:
        assert server.process.wait(DEADLINE) == 1
        assert "EngineCorrupt: tokenizer/tokenizer.json has sha256" in server.log.read_text()


def test_a_python_that_the_backend_cannot_work_with_is_refused(
    engines: Engines, tmp_path: Path
) -> None:
    """Ours, whose numpy this backend would misread."""
    export(engines("tiny-kjv"), tmp_path / "repository", "model")
    ours = Path(sys.executable).parent
    with tritonserver(
        tmp_path / "repository", "model", tmp_path, wait=False, python=ours
    ) as server:
        assert server.process.wait(DEADLINE) == 1
        assert "reads arrays of numpy 1 only; give its Python" in server.log.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--option", "port=1"], "InvalidOption: port: Triton has this in its own hands"),
        (["--option", "on-fault=pray"], "InvalidOption: on-fault: 'pray' is none of tell, end-"),
        (["--option", "speed=1"], "InvalidOption: unrecognized arguments: --speed=1"),
        (["--option", "world-size=2"], "WorldSizeMismatch"),
        (["--option", "kv-memory=1"], "NotEnoughMemory"),
        (["--name", "a/b"], "InvalidOption: --name 'a/b'"),
    ],
)
def test_what_cannot_run_is_not_exported(
    engines: Engines,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    command = ["triton", "--engine", str(engines("tiny-kjv")), "--output", str(tmp_path / "new")]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("model.py"))


def test_an_export_is_complete_and_never_written_over(
    engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["triton", "--engine", str(engines("tiny-kjv")), "--output", str(tmp_path)]
    assert main(command) == 0
    model = Path(capsys.readouterr().out.strip())
    assert model == tmp_path / "tiny-kjv"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-kjv"]
    assert open_engine(model / "1/engine", 1).manifest.world_size == 1
    packages = (model / "requirements.txt").read_text().splitlines()
    assert "numpy>=1.26,<2" in packages
    assert f"onnxruntime=={metadata.version('onnxruntime')}" in packages
    assert main(command) == 2
    assert "is there already; remove it" in capsys.readouterr().err


def export(engine: Path, repository: Path, name: str, *options: str) -> None:
    command = ["triton", "--engine", str(engine), "--output", str(repository), "--name", name]
    assert main([*command, "--option", "threads=1", "--no-trial", *options]) == 0


def generate(triton: Triton, model: str = "model", **fields: Any) -> httpx.Response:  # noqa: ANN401
    url = f"{triton.url}/v2/models/{model}/generate"
    return httpx.post(url, json={"text_input": PROMPT, **fields}, timeout=DEADLINE)


def finished(triton: Triton, reason: str) -> float:
    return triton.metric("pitcrew_requests_finished_total", reason=reason)


def inputs(texts: Sequence[str], **more: Any) -> list[triton_grpc.InferInput]:  # noqa: ANN401
    """Tensors [texts, 1]; whatever comes beside the texts is said once for each."""
    columns: dict[str, list[Any]] = {"text_input": [text.encode() for text in texts]}
    for name, value in more.items():
        columns[name] = [value.encode() if isinstance(value, str) else value] * len(texts)
    found = []
    for name, values in columns.items():
        is_text = isinstance(values[0], bytes)
        tensor = triton_grpc.InferInput(name, [len(texts), 1], "BYTES" if is_text else "BOOL")
        array = np.array(values, object if is_text else bool)
        tensor.set_data_from_numpy(array.reshape(-1, 1))
        found.append(tensor)
    return found


@contextmanager
def streaming(
    triton: Triton,
) -> Iterator[tuple[triton_grpc.InferenceServerClient, "queue.Queue[tuple[Any, Any]]"]]:
    """A client with a stream, and what comes of it as (result, error)."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(triton.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        yield client, answers
        client.stop_stream(cancel_requests=True)


def until_final(answers: "queue.Queue[tuple[Any, Any]]") -> list[Any]:
    """Results with outputs, up to the mark of the last one."""
    found = []
    while True:
        result, error = answers.get(timeout=DEADLINE)
        assert error is None
        if result.get_response().outputs:
            found.append(result)
        if result.get_response().parameters["triton_final_response"].bool_param:
            return found


def streamed_tokens(triton: Triton, text: str, sampling: dict[str, Any]) -> list[int]:
    tensors = inputs(
        [text], stream=True, return_token_ids=True, sampling_parameters=json.dumps(sampling)
    )
    with streaming(triton) as (client, answers):
        client.async_stream_infer("model", tensors, enable_empty_final_response=True)
        results = until_final(answers)
    return [
        token for one in results for ids in strings(one, "token_ids") for token in json.loads(ids)
    ]


def strings(result: Any, name: str = "text_output") -> list[str]:  # noqa: ANN401
    return [value.decode() for value in result.as_numpy(name).ravel()]


def descendants(process: int) -> list[int]:
    """Ranks of an engine below a process."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            if "ranks.worker" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(child)
            found += descendants(child)
    return found
