"""The real Triton server, out of the wheel of NVIDIA's PyTriton, as a process on loopback.

Only the server of that wheel is used: what its Python half asks for is not installed. The server has
an environment of its own, since its backend reads arrays of numpy 1 only. Both lie in the cache of
the devcluster's artefacts, under a name that follows from their lock.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from devcluster.artefacts import Artefact, Say, digest, ensure
from devcluster.config import REPO, from_environment
from devcluster.debian import download, unpack
from devcluster.machine import mirror
from tests.integration.runtime.servers import DEADLINE, wait_until

_LOCK = REPO / "requirements/triton.lock"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
METRICS_ADDRESS = "127.0.0.2"
_LIBRARY = f"libpython{_PYTHON}.so.1.0"


def installed() -> Path:
    """An environment with the server, its backend fit for this Python."""
    text = _LOCK.read_text()
    version = text.partition("==")[2].split()[0]
    artefact = Artefact("tritonserver", version, digest([text, _PYTHON]), _make, "about 140 MB")
    return ensure(from_environment(os.environ, Path.home()), artefact)


def _make(into: Path, say: Say) -> None:
    uv = REPO / ".venv/bin/uv"
    say("packages")
    environment = {**os.environ, "UV_NATIVE_TLS": "1"}
    make = [uv, "venv", "--quiet", "--relocatable", "--allow-existing"]
    subprocess.run([*make, "--python", sys.executable, into], check=True)
    sync = [uv, "pip", "sync", "--quiet", "--require-hashes"]
    subprocess.run([*sync, "--python", into / "bin/python", _LOCK], env=environment, check=True)
    server = _server(into)
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    # Where the backend looks for it, and with a path to its libraries that fits there.
    shutil.copy2(stub, server / "backends/python" / stub.name)
    if _shared_library() is None:
        say(_LIBRARY)
        debs = into / "debs"
        debs.mkdir()
        package = f"libpython{_PYTHON}"
        unpack(download(mirror(), [package], debs, say, with_dependencies=False), into / "os", say)
        shutil.rmtree(debs)


def _server(environment: Path) -> Path:
    return environment / f"lib/python{_PYTHON}/site-packages/pytriton/tritonserver"


def _shared_library() -> Path | None:
    """The library of this Python, where it was built with one."""
    folders = [sysconfig.get_config_var("LIBDIR"), "/usr/lib/x86_64-linux-gnu", "/usr/local/lib"]
    found = (Path(folder) / _LIBRARY for folder in folders if folder)
    return next((path for path in found if path.exists()), None)


@dataclass
class Triton:
    """A running server with one model."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    log: Path
    model: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports['grpc']}"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels among others."""
        text = httpx.get(f"http://{METRICS_ADDRESS}:{self.ports['http']}/metrics").text
        samples = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(float(value) for given, value in samples if all(one in given for one in wanted))

    def ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"Triton ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            return httpx.get(f"{self.url}/v2/models/{self.model}/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def tritonserver(
    repository: Path, model: str, folder: Path, *, wait: bool = True, python: Path | None = None
) -> Iterator[Triton]:
    """Serve; `python` is the directory of another interpreter than the environment's."""
    log = folder / f"triton-{time.monotonic_ns()}.log"
    with _held_port() as http, _held_port() as grpc, log.open("wb") as output:
        ports = {"http": http, "grpc": grpc}
        command = _command(repository, ports)
        process = subprocess.Popen(
            command,
            env=_environment(python),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            triton = Triton(process, ports, log, model)
            if wait:
                wait_until(triton.ready, "the model is ready")
            yield triton
        finally:
            # Its models' interpreters outlive a server that is killed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(DEADLINE)


@contextmanager
def _held_port() -> Iterator[int]:
    """A port that nobody is given meanwhile but the server, which may share it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _command(repository: Path, ports: Mapping[str, int]) -> list[str]:
    server = _server(installed())
    command = [str(server / "bin/tritonserver"), f"--model-repository={repository}"]
    command += [f"--backend-directory={server / 'backends'}", "--disable-auto-complete-config"]
    # Metrics share no port; one that is held on the usual address is free on another.
    command += [f"--metrics-port={ports['http']}", f"--metrics-address={METRICS_ADDRESS}"]
    for name, port in ports.items():
        command += [f"--{name}-port={port}", f"--{name}-address=127.0.0.1"]
        command += [f"--reuse-{name}-port=true"]
    return command


def _environment(python: Path | None) -> dict[str, str]:
    library = _shared_library()
    folder = library.parent if library else next((installed() / "os").rglob(_LIBRARY)).parent
    # The stub's interpreter takes the packages of the python3 that comes first on the path.
    path = f"{python or installed() / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": str(folder)}
