"""buildah in a sandbox: the node's file tree, this machine's network, its layers in the cache."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.artefacts import Say
from devcluster.config import DATA, Config
from devcluster.errors import CommandError, DevclusterError
from devcluster.process import run

# Layers of earlier builds pile up and buildah cannot tell a useful one from a stale one: past this
# many bytes all of them go, and the next build starts from the wheels that pip keeps.
STORAGE_LIMIT = 8 * 10**9
_UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True)
class Buildah:
    """Commands on one image storage. Callers that change it hold a lock on `lock`."""

    config: Config
    rootfs: Path

    @property
    def lock(self) -> Path:
        """The file to lock while the storage changes."""
        return self.config.storage / ".lock"

    def bud(
        self,
        context: Path,
        target: str,
        tag: str,
        arguments: Sequence[str],
        volumes: Sequence[str],
        binds: Sequence[Path],
        say: Say,
    ) -> None:
        """Build `target` of the Dockerfile in `context`; the whole log is kept beside the storage.

        `arguments` are NAME=VALUE, `volumes` FROM:TO:ro for RUN steps only, whose FROMs lie in
        `binds`.

        Raises:
            CommandError: the build failed.
        """
        command = ["buildah", "bud", "--layers", "--pull=never", "--format", "docker"]
        command += [word for volume in volumes for word in ("--volume", volume)]
        command += [word for argument in arguments for word in ("--build-arg", argument)]
        command += ["--target", target, "--tag", tag, str(context)]
        log = self.config.storage / f"build-{target}.log"
        self._run(command, [context, *binds], say, log)

    def pull(self, archive: Path) -> None:
        """Take the images of a docker-archive into the storage."""
        self._run(["buildah", "pull", "-q", f"docker-archive:{archive}"], [archive.parent])

    def export(self, name: str, into: Path) -> None:
        """Write an image as a docker-archive.

        Raises:
            DevclusterError: there is no such image.
        """
        try:
            self._run(["buildah", "push", name, f"docker-archive:{into}:{name}"], [into.parent])
        except CommandError as error:
            raise DevclusterError(f"image {name} cannot be read:\n{error.tail}") from error

    def identity(self, name: str) -> str | None:
        """The image's id, or None if the storage does not hold it."""
        show = ["--type", "image", "--format", "{{.FromImageID}}"]
        try:
            return self._run(["buildah", "inspect", *show, name], []).strip()
        except CommandError:
            return None

    def size(self, name: str) -> int:
        """The bytes of an image, unpacked, to three digits."""
        found = json.loads(self._run(["buildah", "images", "--json", name], []))
        return parse_size(found[0]["size"])

    def trim(self) -> bool:
        """Forget every layer if they outgrew their limit; says whether it did."""
        layers = self.config.storage / "var/lib/containers"
        if not layers.is_dir() or int(run(["du", "-sb", layers]).split()[0]) < STORAGE_LIMIT:
            return False
        shutil.rmtree(layers)
        return True

    def _run(
        self,
        command: Sequence[str],
        binds: Sequence[Path],
        say: Say | None = None,
        log: Path | None = None,
    ) -> str:
        self.config.storage.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix="root-", dir=self.config.storage))
        environment = {
            "ROOTFS": str(self.rootfs / "root"),
            "ROOT": str(root),
            "STORAGE": str(self.config.storage),
            "BINDS": ":".join(str(path) for path in binds),
        }
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        script = ["--propagation", "private", "bash", str(DATA / "node" / "sandbox.sh")]
        try:
            return run([*unshare, *script, *command], env=environment, say=say, log=log)
        finally:
            root.rmdir()  # all that was in it was mounted in the sandbox, and went with it


def parse_size(text: str) -> int:
    """buildah's "101 MB" in bytes."""
    number, unit = text.split()
    return round(float(number) * _UNITS[unit.upper()])
