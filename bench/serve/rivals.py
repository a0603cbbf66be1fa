"""Everything that is measured, behind one face: open a model, then ask for rounds.

A contender says what it cannot do by `Unavailable`; the table shows the reason.
"""

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import environments
import models
from load import Round, Shape, clients_at_once

MOST_CLIENTS = 32
_HERE = Path(__file__).parent
_PATIENCE = 120.0
"""Seconds that a server may take to load a model."""

_LLAMA_FIELDS = {"cache_prompt": False, "samplers": ["top_k"], "top_k": 1}
"""Nothing is kept from earlier prompts, and the best token is taken without further ado."""

Answer: TypeAlias = Callable[[list[list[int]], int], Round]
"""From prompts, one for each client, and tokens to generate."""


@dataclass(frozen=True)
class Contender:
    """A way to serve a model."""

    name: str
    where: str
    """Of the client: over HTTP, or in the engine's own process."""
    open: Callable[[models.Model, Shape, int], AbstractContextManager[Answer]]
    """With so many threads."""


@contextlib.contextmanager
def pitcrew(model: models.Model, shape: Shape, threads: int) -> Iterator[Answer]:
    """Our server, as it comes."""
    with pitcrew_server(model, threads) as url:
        yield lambda prompts, output: clients_at_once(url, prompts, output)


@contextlib.contextmanager
def pitcrew_server(model: models.Model, threads: int) -> Iterator[str]:
    """Its address."""
    port = _free_port()
    command = [sys.executable, "-m", "pitcrew_runtime.cli", "--engine", models.engine(model)]
    command += ["--port", port, "--served-model-name", "bench", "--threads", threads]
    with _server(command, port, "/health/ready") as url:
        yield url


@contextlib.contextmanager
def llama_cpp(model: models.Model, shape: Shape, threads: int) -> Iterator[Answer]:
    """llama.cpp's own server, with a slot for each client."""
    with llama_cpp_server(model, shape, threads) as url:
        yield lambda prompts, output: clients_at_once(url, prompts, output, _LLAMA_FIELDS)


@contextlib.contextmanager
def llama_cpp_server(model: models.Model, shape: Shape, threads: int) -> Iterator[str]:
    """Its address."""
    server, file = environments.llama_cpp("llama-server"), models.gguf_file(model)
    port = _free_port()
    context = MOST_CLIENTS * (shape.prompt + shape.output + 16)
    command = [server, "--model", file, "--alias", "bench", "--port", port, "--no-webui"]
    command += ["--threads", threads, "--threads-batch", threads]
    command += ["--parallel", MOST_CLIENTS, "--ctx-size", context, "--cache-ram", 0]
    with _server(command, port, "/health") as url:
        yield url


@contextlib.contextmanager
def llama_cpp_batches(model: models.Model, shape: Shape, threads: int) -> Iterator[Answer]:
    """llama.cpp's own benchmark: batches that begin and end together, no network, no sampling."""
    program = environments.llama_cpp("llama-batched-bench")
    command = [program, "--model", models.gguf_file(model), "--output-format", "jsonl"]
    command += ["--threads", threads, "--threads-batch", threads]

    def answer(prompts: list[list[int]], output: int) -> Round:
        count, length = len(prompts), len(prompts[0])
        # The first token follows from the prompt.
        sizes = ["--ctx-size", count * (length + output + 16)]
        sizes += ["-npp", length, "-ntg", output - 1, "-npl", count]
        took = _told([*command, *sizes])
        return Round(took["t_pp"] + took["t_tg"], [took["t_pp"]] * count, [output] * count)

    yield answer


def _told(command: list[object]) -> dict[str, float]:
    """What llama.cpp's benchmark prints. Its log's thread sometimes ends before it has."""
    for _ in range(5):
        run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        if found := re.search(r"\{.*\}", run.stdout):
            told: dict[str, float] = json.loads(found[0])
            return told
    raise SystemExit(f"llama-batched-bench told nothing: {run.stderr}")


@contextlib.contextmanager
def pitcrew_batches(model: models.Model, shape: Shape, threads: int) -> Iterator[Answer]:
    """Our engine in a process of its own, without HTTP."""
    command = [sys.executable, _HERE / "own_batches.py", models.engine(model), threads]
    with _batches(command) as answer:
        yield answer


@contextlib.contextmanager
def genai(model: models.Model, shape: Shape, threads: int) -> Iterator[Answer]:
    """onnxruntime-genai, a static batch of all clients."""
    directory = models.genai_directory(model, threads)
    with _batches([environments.genai(), _HERE / "genai_batches.py", directory]) as answer:
        yield answer


@contextlib.contextmanager
def _batches(command: list[object]) -> Iterator[Answer]:
    """A program that takes a batch a line, once it has said that it is ready."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        list(map(str, command)), stdin=pipe, stdout=pipe, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise environments.Unavailable(f"{command[1]} did not load the model")

        def answer(prompts: list[list[int]], output: int) -> Round:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"prompts": prompts, "output": output}) + "\n")
            return Round(**json.loads(process.stdout.readline()))

        yield answer
        process.stdin.close()


HTTP, IN_PROCESS = "HTTP", "in process"
OWN = {
    HTTP: Contender("pitcrew, HTTP", HTTP, pitcrew),
    IN_PROCESS: Contender("pitcrew, in process", IN_PROCESS, pitcrew_batches),
}
CONTENDERS = (
    *OWN.values(),
    Contender(f"llama-server {environments.LLAMA_CPP}", HTTP, llama_cpp),
    Contender(f"llama.cpp {environments.LLAMA_CPP}", IN_PROCESS, llama_cpp_batches),
    Contender(f"onnxruntime-genai {environments.GENAI}", IN_PROCESS, genai),
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _server(command: list[object], port: int, ready: str) -> Iterator[str]:
    """A process until it is asked to end; its address, once it is ready."""
    url = f"http://127.0.0.1:{port}"
    log = Path(f"{models.WORK}/server-{port}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output)
    try:
        until = time.monotonic() + _PATIENCE
        while not _answers(url + ready):
            if process.poll() is not None or time.monotonic() > until:
                said = re.sub(r"\s+", " ", log.read_text(errors="replace")[-400:])
                raise environments.Unavailable(f"the server did not come up: {said}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.unlink()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
