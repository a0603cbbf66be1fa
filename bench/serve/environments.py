"""Where the rivals live: environments and builds outside of the repository, by version.

Each is made once, from PyPI alone. What cannot be made here is told by its reason and left out.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pitcrew" / "bench"
LLAMA_CPP, GGUF, GENAI, AIPERF = "0.3.36", "0.19.0", "0.18.0", "0.13.0"
"""Versions of llama-cpp-python, gguf, onnxruntime-genai and aiperf."""
_GENAI = (f"onnxruntime-genai=={GENAI}", "onnxruntime==1.32.0", "torch==2.15.0", "transformers==5.23.0", "onnx_ir")  # fmt: skip
_LLAMA_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)  # fmt: skip


class Unavailable(Exception):
    """A rival cannot be had on this machine."""


def gguf() -> Path:
    """The Python that has `gguf`."""
    return _environment(f"gguf-{GGUF}", [f"gguf=={GGUF}", "safetensors", "ml_dtypes"])


def genai() -> Path:
    """The Python that has onnxruntime-genai, and what its model builder needs: 5 GB."""
    return _environment(f"genai-{GENAI}", _GENAI)


def aiperf() -> Path:
    """aiperf's command."""
    return _environment(f"aiperf-{AIPERF}", [f"aiperf=={AIPERF}"]).with_name("aiperf")


def llama_cpp(program: str) -> Path:
    """A program of llama.cpp, built from the source that llama-cpp-python carries, for this processor."""
    home = CACHE / f"llama-cpp-{LLAMA_CPP}"
    source = home / "vendor" / "llama.cpp"
    built = source / "build" / "bin" / program
    if built.exists():
        return built
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {tool} to build llama.cpp with")
    if not source.exists():
        _unpack(home)
    run("cmake", "-S", source, "-B", source / "build", *_LLAMA_OPTIONS)
    # A number: without one, make starts everything at once.
    workers = str(os.cpu_count() or 1)
    run("cmake", "--build", source / "build", "--target", program, "--parallel", workers)
    return built


def _unpack(home: Path) -> None:
    sources = CACHE / "src"
    name = "llama-cpp-python"
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name,
         "--dest", sources, f"{name}=={LLAMA_CPP}")  # fmt: skip
    with tarfile.open(sources / f"llama_cpp_python-{LLAMA_CPP}.tar.gz") as archive:
        archive.extractall(CACHE, filter="data")
    (CACHE / f"llama_cpp_python-{LLAMA_CPP}").rename(home)


def _environment(name: str, packages: Sequence[str]) -> Path:
    home = CACHE / name
    python = home / "bin" / "python"
    if not (home / ".complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        run(sys.executable, "-m", "venv", home)
        run(python, "-m", "pip", "install", "--quiet", *packages)
        (home / ".complete").touch()
    return python


def run(*command: str | Path) -> None:
    """Run to the end. Raises `Unavailable` with its last words."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Unavailable(f"{Path(command[0]).name} failed: {' '.join(last)}")
