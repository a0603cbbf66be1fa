"""A running operator over a simulated API server."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import kmock
import pytest
import yaml

from tests.kmock.apiserver import ApiServer

DEADLINE = 60.0
SETTINGS = {
    "PITCREW_BUILDER_IMAGE": "pitcrew/builder:1",
    "PITCREW_RUNTIME_IMAGE": "pitcrew/runtime:1",
    "PITCREW_LOG_POLL_SECONDS": "0.05",
    "PITCREW_HTTP_PORT": "0",
    "PITCREW_PROBE_SERVICES": "false",
}


class StartOperator(Protocol):
    """Runs the operator for as long as the block lasts, then ends it by the signal."""

    def __call__(
        self, end: signal.Signals = signal.SIGTERM, **settings: str
    ) -> AbstractAsyncContextManager[asyncio.subprocess.Process]: ...


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    """The API server; KUBECONFIG points at it."""
    server = ApiServer()
    async with server.http as handler, kmock.Server(handler) as http:
        document = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": str(http.url).rstrip("/")}}],
            "users": [{"name": "test", "user": {"token": "t"}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield server


@pytest.fixture
def operator(tmp_path: Path) -> StartOperator:
    """The whole operator in a process of its own, kopf and HTTP client included."""

    @asynccontextmanager
    async def start(
        end: signal.Signals = signal.SIGTERM, **settings: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        with (tmp_path / "operator.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pitcrew_operator", "run"),
                env={**os.environ, **SETTINGS, **settings},
                stderr=log,
            )
        try:
            yield process
            assert process.returncode is None, "the operator ended by itself"
        finally:
            process.send_signal(end)
            code = await asyncio.wait_for(process.wait(), DEADLINE)
        assert code == (0 if end is signal.SIGTERM else -end)

    return start


@pytest.fixture
def eventually() -> Callable[..., object]:
    """Await a fact, with a deadline and the last look in the message."""

    async def wait(look: Callable[[], object]) -> object:
        loop = asyncio.get_running_loop()
        end = loop.time() + DEADLINE
        while not (seen := look()):
            assert loop.time() < end, "did not come true in time"
            await asyncio.sleep(0.02)
        return seen

    return wait
