"""Real servers, as processes on loopback."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

DEADLINE = 60.0
_LISTENING = re.compile(rb"Listening on \S+ port (\d+)")


def wait_until(true: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


@dataclass
class Server:
    """A `pitcrew-serve` process."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    name: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    @property
    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def whole_and_streamed(self, asked: dict[str, Any]) -> tuple[str, list[str]]:
        """The text of a completion, and the pieces of the same one as a stream."""
        whole = self.client.completions.create(**asked)
        chunks = self.client.completions.create(**asked, stream=True)
        pieces = [chunk.choices[0].text for chunk in chunks if chunk.choices]
        return whole.choices[0].text, pieces

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path)

    def metric(self, name: str) -> float:
        for line in self.get("/metrics").text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            return self.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def liveness(self) -> str:
        """What is wrong; empty while all is well, and when nobody answers any more."""
        try:
            answer = self.get("/health/live")
        except httpx.TransportError:
            return ""
        return answer.text if answer.status_code == 503 else ""

    def empty(self) -> bool:
        used = self.metric("pitcrew_kv_cache_usage_ratio")
        return used == 0 and self.metric("pitcrew_requests_running") == 0

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


def command(engine: Path, *options: str) -> list[str]:
    program = [sys.executable, "-m", "pitcrew_runtime.cli"]
    return [*program, "--engine", str(engine), "--port", "0", *options]


@contextmanager
def serving(
    engine: Path, folder: Path, *options: str, name: str = "model", wait: bool = True, **env: str
) -> Iterator[Server]:
    log = folder / f"server-{time.monotonic_ns()}.log"
    arguments = command(engine, "--served-model-name", name, *options)
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, stderr=output, stdout=output, env={**os.environ, **env}
        )
    try:
        wait_until(
            lambda: bool(_LISTENING.search(log.read_bytes())) or process.poll() is not None,
            "the server listens",
        )
        port = _LISTENING.search(log.read_bytes())
        assert port is not None, log.read_text()
        server = Server(process, int(port[1]), log, name)
        if wait:
            wait_until(server.ready, "the server is ready")
        yield server
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)


def token_ids(answer: openai.types.Completion) -> list[list[int]]:
    """The `token_ids` of each choice, which the client keeps as an extra field."""
    return [choice.model_dump()["token_ids"] for choice in answer.choices]
