"""Comings and goings: readers that leave, servers that are told to, engines that cannot be served."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.integration.runtime.conftest import Engines, Serve
from tests.integration.runtime.servers import DEADLINE, Server, command, serving, wait_until

LONG: dict[str, Any] = {
    "model": "model",
    "prompt": "In the beginning",
    "max_tokens": 1000,
    "temperature": 0,
    "extra_body": {"ignore_eos": True},
}


def running(server: Server) -> bool:
    return server.metric("pitcrew_requests_running") > 0


def cancelled(server: Server) -> bool:
    return 'finished_total{reason="cancelled"} 1.0' in server.get("/metrics").text


async def test_a_reader_that_leaves_frees_its_pages(engines: Engines, serve: Serve) -> None:
    with serve(engines("tiny-kjv")) as server:
        async with server.async_client as client:
            stream = await client.completions.create(stream=True, **LONG)
            async for _ in stream:
                break
            await stream.close()
        wait_until(lambda: cancelled(server), "the request is cancelled")
        wait_until(server.empty, "its pages are free")
        generated = server.metric("pitcrew_generation_tokens_total")
        assert generated < 1000


def test_a_whole_answer_nobody_waits_for_is_cancelled(engines: Engines, serve: Serve) -> None:
    with serve(engines("tiny-kjv")) as server:
        body = {**LONG, **LONG["extra_body"]}
        del body["extra_body"]
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/completions", json=body, timeout=0.1)
        wait_until(lambda: cancelled(server), "the request is cancelled")
        wait_until(server.empty, "its pages are free")


def test_told_to_stop_it_finishes_what_runs(engines: Engines, serve: Serve) -> None:
    with serve(engines("tiny-kjv")) as server, server.client as client:
        stream = client.completions.create(stream=True, **LONG)
        chunks = iter(stream)
        next(chunks)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health/ready").status_code == 503, "readiness is red")
        assert server.get("/health/ready").json()["reason"] == "draining"
        assert server.get("/health/live").status_code == 200
        with pytest.raises(openai.InternalServerError) as refused:
            client.completions.create(**LONG)
        assert refused.value.status_code == 503
        assert refused.value.response.headers["retry-after"] == "1"
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons[-1] == "length"
        assert len(reasons) > 500
        assert server.process.wait(DEADLINE) == 0


def test_told_to_stop_it_answers_until_its_clients_have_heard(
    engines: Engines, serve: Serve
) -> None:
    options = ("--withdraw-seconds", "5")
    with serve(engines("tiny-kjv"), *options) as server, httpx.Client() as idle:
        url, brief = f"{server.url}/v1/completions", {**LONG, "max_tokens": 2}
        del brief["extra_body"]
        assert "connection" not in idle.post(url, json=brief).headers
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health/ready").status_code == 503, "readiness is red")
        for client in (httpx, idle, httpx):
            answer = client.post(url, json=brief)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert server.process.wait(DEADLINE) == 0


def test_a_proof_is_computed_for_anybody(engines: Engines, serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    with serve(engines("tiny-kjv"), "--api-key-file", str(keys)) as server:
        before = server.metric("pitcrew_generation_tokens_total")
        proof = server.get("/health/proof").json()
        assert proof["tokens"] == proof["expected"] != []
        assert proof["engineId"] == server.get("/version").json()["engineId"]
        made = server.metric("pitcrew_generation_tokens_total") - before
        assert made == len(proof["tokens"])


def test_what_takes_too_long_is_cut_off(engines: Engines, serve: Serve) -> None:
    with serve(engines("tiny-kjv"), "--drain-seconds", "0") as server, server.client as client:
        stream = client.completions.create(stream=True, **LONG)
        next(iter(stream))
        assert server.terminate() == 0
        assert "Cancelled what was not finished" in server.log.read_text()


def test_an_idle_server_stops_at_once(engines: Engines, serve: Serve) -> None:
    with serve(engines("tiny-kjv")) as server:
        assert server.terminate() == 0


def test_it_can_be_stopped_while_it_loads(engines: Engines, tmp_path: Path) -> None:
    with serving(engines("tiny-kjv"), tmp_path, wait=False) as server:
        assert server.terminate() == 0


def test_it_answers_while_it_loads(engines: Engines, tmp_path: Path) -> None:
    """The engine lies behind a pipe that nobody writes to."""
    engine = Path(shutil.copytree(engines("tiny-kjv"), tmp_path / "engine"))
    manifest = engine / "manifest.json"
    manifest.unlink()
    os.mkfifo(manifest)
    with serving(engine, tmp_path, wait=False) as server:
        assert server.get("/health/live").status_code == 200
        told = server.get("/health/ready")
        assert told.status_code == 503
        assert told.json()["reason"] == "verifying the engine's files"
        refused = server.get("/v1/models")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "not_ready"
        assert server.terminate() == 0


def test_overload_is_told_with_a_time_to_retry(engines: Engines, serve: Serve) -> None:
    options = ("--max-batch-size", "1", "--max-waiting", "1")
    with serve(engines("tiny-kjv"), *options) as server, server.client as client:
        first = client.completions.create(stream=True, **LONG)
        wait_until(lambda: running(server), "the first runs")
        second = client.completions.create(stream=True, **LONG)
        with pytest.raises(openai.RateLimitError) as full:
            client.completions.create(**LONG)
        assert 1 <= int(full.value.response.headers["retry-after"]) <= 60
        assert full.value.code == "queue_full"
        first.close()
        second.close()
        wait_until(server.empty, "both are gone")


def test_keys(
    engines: Engines, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\n\nsecond\n")
    monkeypatch.setenv("PITCREW_API_KEYS", "third\n")
    options = ("--api-key-file", str(keys), "--grpc-port", "0")
    with serve(engines("tiny-kjv"), *options) as server:

        def status(authorization: str | None) -> int:
            headers = {} if authorization is None else {"authorization": authorization}
            return httpx.get(f"{server.url}/v1/models", headers=headers).status_code

        assert [status(f"Bearer {key}") for key in ("first", "second", "third")] == [200] * 3
        assert [status(bad) for bad in (None, "", "Bearer", "Bearer firs", "Bearer x first")] == (
            [401] * 5
        )
        for path in ("/health/ready", "/v2/health/ready", "/version", "/metrics"):
            assert server.get(path).status_code == 200
        for path in ("/tokenize", "/v2/models/model/generate"):
            assert httpx.post(server.url + path, json={}).status_code == 401
        check_keys_of_grpc(server)


def check_keys_of_grpc(server: Server) -> None:
    port = re.search(r"gRPC on \S+ port (\d+)", server.log.read_text())
    assert port is not None
    with triton.InferenceServerClient(f"127.0.0.1:{port[1]}") as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="send a valid API key"):
            client.get_model_metadata("model")
        good = {"authorization": "Bearer third"}
        assert client.get_model_metadata("model", headers=good).name == "model"
        with pytest.raises(InferenceServerException, match="send a valid API key"):
            client.get_model_metadata("model", headers={"authorization": "Bearer thir"})


@pytest.fixture
def copy(engines: Engines, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engines("tiny-kjv"), tmp_path / "engine"))


def edit(engine: Path, change: dict[str, Any]) -> None:
    path = engine / "manifest.json"
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def refused(engine: Path, tmp_path: Path, *options: str) -> str:
    """The termination log of a server that cannot start."""
    log = tmp_path / "termination-log"
    log.touch()
    run = subprocess.run(
        command(engine, "--termination-log", str(log), *options),
        capture_output=True,
        check=False,
        timeout=DEADLINE,
        text=True,
    )
    assert run.returncode == 2, run.stderr
    line = log.read_text()
    assert line.count("\n") == 1
    assert line in run.stderr
    return line


def test_no_engine(tmp_path: Path) -> None:
    assert refused(tmp_path, tmp_path).startswith("EngineNotFound: --engine ")


def test_wrong_world_size(copy: Path, tmp_path: Path) -> None:
    line = refused(copy, tmp_path, "--world-size", "2")
    assert line.startswith("WorldSizeMismatch: ")
    assert "was built for 1 rank(s), this runtime has 2: set worldSize" in line


def test_another_schema(copy: Path, tmp_path: Path) -> None:
    edit(copy, {"schemaVersion": 2})
    assert "EngineIncompatible: the manifest has schema version 2" in refused(copy, tmp_path)


def test_a_manifest_that_is_none(copy: Path, tmp_path: Path) -> None:
    edit(copy, {"ranks": []})
    assert refused(copy, tmp_path).startswith("EngineCorrupt: ")


def test_a_flipped_bit(copy: Path, tmp_path: Path) -> None:
    flip(copy / "rank0/model.onnx.data")
    line = refused(copy, tmp_path)
    assert line.startswith("EngineCorrupt: rank0/model.onnx.data has sha256 ")
    assert "build it again" in line


def test_a_truncated_file(copy: Path, tmp_path: Path) -> None:
    path = copy / "tokenizer/tokenizer.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:100])
    assert "tokenizer.json has 100 bytes, the manifest says" in refused(copy, tmp_path)


def test_a_missing_file(copy: Path, tmp_path: Path) -> None:
    (copy / "rank0/model.onnx").unlink()
    assert "rank0/model.onnx: No such file" in refused(copy, tmp_path)


def test_a_file_from_outside(copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    edit(copy, {"files": [*manifest["files"], {"path": "../x", "size": 1, "sha256": "0"}]})
    assert "outside of the engine" in refused(copy, tmp_path)


def test_a_canary_that_sings_another_song(copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    song = [(token + 1) % 2048 for token in manifest["canary"]["continuation"]]
    edit(copy, {"canary": {**manifest["canary"], "continuation": song}})
    assert refused(copy, tmp_path).startswith("CanaryMismatch: greedy tokens ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--kv-memory", "1000"), "NotEnoughMemory: a KV page takes 48.0 KiB"),
        (("--kv-memory", "48Ki"), "24 tokens, and the KV pool has room for 16; raise kvMemory"),
        (("--wedge-seconds", "0"), "InvalidOption: argument --wedge-seconds: 0 is not above 0"),
        (("--speculative", "ngram", "--ngram-max", "33"), "InvalidOption: --ngram-max 33"),
        (
            ("--speculative", "ngram", "--speculative-tokens", "64"),
            "InvalidOption: --speculative-tokens 64: 63 guesses",
        ),
        (("--kv-memory", "5MB"), "InvalidOption: argument --kv-memory: '5MB' is not a size"),
        (("--what",), "InvalidOption: unrecognized arguments: --what"),
        (("--port", "70000"), "InvalidOption: argument --port: 70000 is not a TCP port"),
        (("--max-batch-size", "64"), "InvalidOption: --max-batch-size 64: the engine was built"),
        (("--max-step-tokens", "32"), "InvalidOption: --max-step-tokens 32: a full batch takes 32"),
        (("--api-key-file", "/nowhere"), "InvalidOption: --api-key-file /nowhere"),
        (("--host", "256.0.0.1"), "InvalidOption: --host 256.0.0.1"),
    ],
)
def test_options_that_cannot_be(
    engines: Engines, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    assert says in refused(engines("tiny-kjv"), tmp_path, *options)
