"""Building the project's images without docker, and giving them to the cluster.

buildah runs in the node's file tree with this machine's network; its layers persist in the cache.
A target whose inputs did not change is not built again, one that the cluster holds is not loaded
again.
"""

import configparser
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from devcluster import archive, node, pythonbase
from devcluster.artefacts import Artefact, digest, digest_files, ensure, locked
from devcluster.config import DATA, REPO, Config
from devcluster.debian import Mirror
from devcluster.errors import CommandError, DevclusterError
from devcluster.process import run
from devcluster.progress import Stage

TARGETS = ("operator", "builder", "runtime")
SOURCES = ("operator", "engine_builder", "runtime")
FILES = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE")
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True)
class Built:
    """One image in the builder's storage: `size` in bytes, unpacked; `key` digests its inputs."""

    reference: str
    image: str
    size: int
    key: str


def reference(target: str) -> str:
    """The full name of a target's image; Kubernetes takes pitcrew/TARGET:dev for the same."""
    return f"docker.io/pitcrew/{target}:dev"


def inputs(repo: Path, target: str) -> list[Path]:
    """Every file that can change a target's image."""
    locks = [f"requirements/{target}.lock", "requirements/build.lock"]
    files = [repo / name for name in (*FILES, *locks)]
    for source in SOURCES:
        files += (repo / source).rglob("*")
    return [file for file in files if file.is_file() and "__pycache__" not in file.parts]


class Builder:
    """buildah in a sandbox of the node's file tree."""

    def __init__(self, config: Config, rootfs: Path, mirror: Mirror) -> None:
        self._config = config
        self._rootfs = rootfs
        self._mirror = mirror

    def build(self, target: str) -> Built:
        """Build one target of the project's Dockerfile, unless its inputs are as they were.

        Raises:
            DevclusterError: the build failed; the message carries the end of its log.
        """
        artefacts = [pythonbase.build(self._mirror), pythonbase.slim(self._mirror)]
        bases = [pythonbase.reference(artefact) for artefact in artefacts]
        key = digest([digest_files(REPO, inputs(REPO, target)), target, *bases])
        known = self._known(target)
        if known and known.key == key:
            return known
        with locked(self._config.storage / ".lock"):
            for artefact in artefacts:
                self._pull(artefact)
            with Stage(f"image pitcrew/{target}:dev") as stage:
                self._bud(target, bases, stage)
                built = self._inspect(target, key)
                stage.say(f"{built.size / 1e6:.0f} MB")
            self._record(target).write_text(json.dumps(asdict(built)))
        return built

    def export(self, name: str, into: Path) -> None:
        """Write an image from the storage as a docker-archive.

        Raises:
            DevclusterError: there is no such image.
        """
        try:
            self._run(["buildah", "push", name, f"docker-archive:{into}:{name}"], [into.parent])
        except CommandError as error:
            raise DevclusterError(f"image {name} cannot be read:\n{error.tail}") from error

    def identity(self, name: str) -> str | None:
        """The image's id, or None if the storage does not hold it."""
        try:
            command = [
                "buildah",
                "inspect",
                "--type",
                "image",
                "--format",
                "{{.FromImageID}}",
                name,
            ]
            return self._run(command, []).strip()
        except CommandError:
            return None

    def _bud(self, target: str, bases: Sequence[str], stage: Stage) -> None:
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._config.storage) as directory:
            mounts = network_mounts(os.environ, Path(directory))
            arguments = [f"PYTHON_IMAGE={bases[0]}", f"BASE_IMAGE={bases[1]}"]
            command = ["buildah", "bud", "--layers", "--pull=never", "--format", "docker"]
            command += [word for mount in mounts for word in ("--volume", mount)]
            command += [word for argument in arguments for word in ("--build-arg", argument)]
            command += ["--target", target, "--tag", reference(target), str(REPO)]
            log = self._config.storage / f"build-{target}.log"
            self._run(command, [REPO, Path(directory)], stage, log)

    def _inspect(self, target: str, key: str) -> Built:
        image = self.identity(reference(target))
        images = json.loads(self._run(["buildah", "images", "--json", reference(target)], []))
        assert image
        return Built(reference(target), image, parse_size(images[0]["size"]), key)

    def _pull(self, artefact: Artefact) -> None:
        if not self.identity(pythonbase.reference(artefact)):
            path = ensure(self._config, artefact) / "image.tar"
            self._run(["buildah", "pull", "-q", f"docker-archive:{path}"], [path.parent])

    def _known(self, target: str) -> Built | None:
        try:
            return Built(**json.loads(self._record(target).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _record(self, target: str) -> Path:
        return self._config.storage / f"{target}.json"

    def _run(
        self,
        command: Sequence[str],
        binds: Sequence[Path],
        stage: Stage | None = None,
        log: Path | None = None,
    ) -> str:
        self._config.storage.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix="root-", dir=self._config.storage))
        environment = {
            "ROOTFS": str(self._rootfs / "root"),
            "ROOT": str(root),
            "STORAGE": str(self._config.storage),
            "BINDS": ":".join(str(path) for path in binds),
        }
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        script = ["--propagation", "private", "bash", str(DATA / "node" / "sandbox.sh")]
        try:
            say = stage.say if stage else None
            return run([*unshare, *script, *command], env=environment, say=say, log=log)
        finally:
            shutil.rmtree(root, ignore_errors=True)


def network_mounts(env: Mapping[str, str], directory: Path) -> list[str]:
    """What `RUN pip` needs of this machine, mounted for the run only: certificates and settings.

    Nothing of it stays in an image. Files that are made for it go to `directory`.
    """
    mounts = []
    named = [env.get(name, "") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    bundle = next((name for name in (*named, *_BUNDLES) if name and Path(name).is_file()), None)
    inside = "/etc/ssl/certs/ca-certificates.crt"
    if bundle:
        # A copy: the file may be a link that leads nowhere inside.
        shutil.copyfile(bundle, directory / "ca.crt")
        mounts.append(f"{directory}/ca.crt:{inside}:ro")
    existing = Path("/etc/pip.conf")
    text = existing.read_text() if existing.is_file() else ""
    (directory / "pip.conf").write_text(pip_settings(env, text, inside if bundle else None))
    return [*mounts, f"{directory}/pip.conf:/etc/pip.conf:ro"]


def pip_settings(env: Mapping[str, str], existing: str, bundle: str | None) -> str:
    """A pip.conf with the index this machine's own pip uses, and the certificates at `bundle`."""
    parser = configparser.RawConfigParser()
    parser.read_string(existing)
    kept = {
        name: value
        for name, value in (parser.items("global") if parser.has_section("global") else ())
        if name in ("index-url", "extra-index-url", "trusted-host")
    }
    for name in ("index-url", "extra-index-url", "trusted-host"):
        if value := env.get(f"PIP_{name.replace('-', '_').upper()}"):
            kept[name] = value
    result = configparser.RawConfigParser()
    result["global"] = kept | ({"cert": bundle} if bundle else {})
    out = io.StringIO()
    result.write(out)
    return out.getvalue()


def parse_size(text: str) -> int:
    """buildah's "101 MB" in bytes."""
    number, unit = text.split()
    return round(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])


def load(config: Config, builder: Builder, name: str, image: str | None = None) -> bool:
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
    full = name if "/" in name and "." in name.partition("/")[0] else f"docker.io/{name}"
    image = image or builder.identity(full)
    if not image:
        raise DevclusterError(
            f"{name} is neither a file nor an image that `build` made ({', '.join(TARGETS)})"
        )
    held = _held(config)
    if held.get(full) == image:
        return False
    with tempfile.TemporaryDirectory(prefix="load-", dir=config.storage) as directory:
        path = Path(directory) / "image.tar"
        builder.export(full, path)
        _import(config, path)
    _held_file(config).write_text(json.dumps({**held, full: image}))
    return True


def _import(config: Config, path: Path) -> None:
    archive.references(path)
    with path.open("rb") as stdin:
        node.execute(config, ["ctr", "-n", "k8s.io", "images", "import", "-"], stdin)


def _held_file(config: Config) -> Path:
    # Beside the images themselves, so that they are forgotten together.
    return config.containerd / "loaded.json"


def _held(config: Config) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(_held_file(config).read_text())
        return found
    except (OSError, ValueError):
        return {}
