"""The project's images: built without docker, and given to the cluster.

A target whose inputs did not change is not built again, one that the cluster holds is not loaded
again.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from devcluster import network, node, pythonbase
from devcluster.artefacts import Artefact, digest, digest_files, ensure, locked
from devcluster.buildah import Buildah
from devcluster.config import REPO, Config
from devcluster.debian import Mirror
from devcluster.errors import CommandError, DevclusterError
from devcluster.progress import Stage, note

TARGETS = ("operator", "builder", "runtime")
SOURCES = ("operator", "engine_builder", "runtime")
FILES = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE")
PIP_CONF = Path("/etc/pip.conf")

_CTR_IMAGES = ("ctr", "-n", "k8s.io", "images")
_COLLECTED = "parent snapshot"


@dataclass(frozen=True)
class Built:
    """One image in the storage: `size` in bytes, unpacked; `key` digests its inputs."""

    reference: str
    image: str
    size: int
    key: str


def reference(target: str) -> str:
    """The full name of a target's image; Kubernetes takes pitcrew/TARGET:dev for the same."""
    return f"docker.io/pitcrew/{target}:dev"


def full_name(name: str) -> str:
    """An image's name with its registry: docker.io where none is named, as Kubernetes has it."""
    registry, slash, _ = name.partition("/")
    named = slash and ("." in registry or ":" in registry or registry == "localhost")
    return name if named else f"docker.io/{name}"


def short_name(name: str) -> str:
    """An image's name as people and manifests write it."""
    return full_name(name).removeprefix("docker.io/")


def inputs(repo: Path, target: str) -> Iterator[Path]:
    """Every file that can change a target's image."""
    locks = (f"requirements/{target}.lock", "requirements/build.lock")
    yield from (repo / name for name in (*FILES, *locks))
    for source in SOURCES:
        for path in (repo / source).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def build(config: Config, buildah: Buildah, mirror: Mirror, target: str) -> Built:
    """Build one target of the project's Dockerfile, unless its inputs are as they were.

    Raises:
        DevclusterError: the build failed; the message carries the end of its log.
    """
    bases = (pythonbase.build(mirror), pythonbase.slim(mirror))
    key = digest([digest_files(REPO, inputs(REPO, target)), target, *(b.key for b in bases)])
    known = _known(config, target)
    if known and known.key == key:
        return known
    with locked(buildah.lock, "another image build"):
        known = _known(config, target)  # perhaps that of the build we waited for
        if known and known.key == key:
            return known
        if buildah.trim():
            note("the image builder's layers outgrew their limit and were removed")
        for base in bases:
            _take_base(config, buildah, base)
        built = _build(config, buildah, target, bases, key)
        _record(config, target).write_text(json.dumps(asdict(built)))
        return built


def load(config: Config, buildah: Buildah, name: str, image: str | None = None) -> bool:
    """Give the running cluster an image: a docker-archive's path, or a name in the storage.

    `image` is its id, where the caller knows it already.

    Returns:
        False when the cluster holds this very image already.

    Raises:
        NotRunning: there is no running cluster.
        DevclusterError: no such image or file.
    """
    node.require(config)
    if Path(name).is_file():
        _import(config, Path(name))
        return True
    full = full_name(name)
    image = image or buildah.identity(full)
    if not image:
        raise DevclusterError(
            f"{name} is neither a file nor an image that `build` made: "
            f"{', '.join(reference(target) for target in TARGETS)}"
        )
    held = _held(config)
    if held.get(full) == image:
        return False
    with tempfile.TemporaryDirectory(prefix="load-", dir=config.storage) as directory:
        path = Path(directory) / "image.tar"
        buildah.export(full, path)
        _import(config, path)
    _held_file(config).write_text(json.dumps({**_held(config), full: image}))
    return True


def _build(
    config: Config, buildah: Buildah, target: str, bases: tuple[Artefact, Artefact], key: str
) -> Built:
    name = reference(target)
    python, base = (pythonbase.reference(artefact) for artefact in bases)
    arguments = (f"PYTHON_IMAGE={python}", f"BASE_IMAGE={base}")
    pip_conf = PIP_CONF.read_text() if PIP_CONF.is_file() else ""
    with (
        Stage(f"image {short_name(name)}") as stage,
        tempfile.TemporaryDirectory(prefix="build-", dir=config.storage) as directory,
    ):
        volumes = network.mounts(os.environ, pip_conf, Path(directory))
        buildah.bud(REPO, target, name, arguments, volumes, [Path(directory)], stage.say)
        image, size = buildah.identity(name), buildah.size(name)
        assert image
        stage.say(f"{size / 1e6:.0f} MB")
    return Built(name, image, size, key)


def _take_base(config: Config, buildah: Buildah, base: Artefact) -> None:
    if not buildah.identity(pythonbase.reference(base)):
        buildah.pull(ensure(config, base) / "image.tar")


def nameless(listing: str) -> list[str]:
    """Images that lost their name to a newer one, from what `ctr images ls` prints.

    Kubernetes keeps an entry `sha256:ID` beside each name; both carry the same digest.
    """
    rows = [line.split() for line in listing.splitlines()[1:] if line.strip()]
    named = {row[2] for row in rows if not row[0].startswith("sha256:")}
    return [row[0] for row in rows if row[0].startswith("sha256:") and row[2] not in named]


def _import(config: Config, path: Path) -> None:
    try:
        _hand_over(config, path)
    except CommandError as error:
        # containerd may collect a layer that nobody stands on in the moment in which this image
        # is about to (containerd/containerd#3787); the next time it is taken from the archive.
        if _COLLECTED not in error.tail:
            raise
        _hand_over(config, path)
    # Running containers keep what they stand on; the rest would fill the disk, version by version.
    if stale := nameless(node.execute(config, [*_CTR_IMAGES, "ls"])):
        # Synchronously: the next image may have layers in common with these.
        node.execute(config, [*_CTR_IMAGES, "rm", "--sync", *stale])


def _hand_over(config: Config, path: Path) -> None:
    with path.open("rb") as stdin:
        node.execute(config, [*_CTR_IMAGES, "import", "-"], stdin)


def _record(config: Config, target: str) -> Path:
    return config.storage / f"{target}.json"


def _known(config: Config, target: str) -> Built | None:
    # The record must not outlive the layers it speaks of.
    if not (config.storage / "var/lib/containers").is_dir():
        return None
    try:
        return Built(**json.loads(_record(config, target).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _held_file(config: Config) -> Path:
    # Beside the images themselves, so that they are forgotten together.
    return config.containerd / "loaded.json"


def _held(config: Config) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(_held_file(config).read_text())
        return found
    except (OSError, ValueError):
        return {}
