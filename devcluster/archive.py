"""A container image of one static program, as the docker-archive that `docker save` writes."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EPOCH = "1970-01-01T00:00:00Z"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_program(
    into: Path, reference: str, program: Path, architecture: str, user: str = "65532:65532"
) -> None:
    """Write an image that holds nothing but `program`, at its root, as its entry point."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add(tar, program.name, program.read_bytes(), mode=0o755)
    settings = {"Entrypoint": [f"/{program.name}"], "User": user}
    with tarfile.open(into, "w") as tar:
        write(tar, reference, layer.getvalue(), settings, architecture)


def write(
    tar: tarfile.TarFile,
    reference: str,
    layer: bytes,
    settings: Mapping[str, Any],
    architecture: str,
) -> None:
    """Add the layer, the configuration and the manifest of a one-layer image to `tar`."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": settings,
        # A date, and always the same: builders compare it before they trust a cached layer.
        "created": EPOCH,
        "history": [{"created": EPOCH, "created_by": "devcluster"}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    document = json.dumps(config).encode()
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    manifest: Sequence[Mapping[str, Any]] = [
        {"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}
    ]
    _add(tar, "layer.tar", layer)
    _add(tar, name, document)
    _add(tar, "manifest.json", json.dumps(manifest).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))
