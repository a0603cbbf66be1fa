"""Where everything lies and what the cluster is called: one frozen answer from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import DevclusterError

REPO = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent
NODE = "devcluster"
NODE_IP = "10.99.0.2"
API_PORT = 6443
DEFAULT_PORT = 26443


@dataclass(frozen=True)
class Config:
    """One cluster: its name, its port on 127.0.0.1 and the cache that clusters share."""

    cache: Path
    name: str = "pitcrew"
    port: int = DEFAULT_PORT

    @property
    def artefacts(self) -> Path:
        """Finished builds, one directory each, shared by all clusters."""
        return self.cache / "artefacts"

    @property
    def storage(self) -> Path:
        """The image builder's layers."""
        return self.cache / "buildah"

    @property
    def tools(self) -> Path:
        """Links to kubectl and helm, fit for PATH."""
        return self.cache / "bin"

    @property
    def state(self) -> Path:
        """What belongs to this cluster alone."""
        return self.cache / "clusters" / self.name

    @property
    def logs(self) -> Path:
        """One log for each component."""
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        """Keys, certificates and the components' kubeconfigs."""
        return self.state / "pki"

    @property
    def containerd(self) -> Path:
        """Images and their unpacked layers: kept from one start to the next."""
        return self.state / "containerd"

    @property
    def data(self) -> Path:
        """etcd, kubelet and volumes: gone after `down`, unless it was asked to keep them."""
        return self.state / "data"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way in, from this machine."""
        return self.state / "kubeconfig"


def from_environment(env: Mapping[str, str], home: Path) -> Config:
    """Read PITCREW_CACHE (or XDG_CACHE_HOME), PITCREW_CLUSTER and PITCREW_PORT.

    Raises:
        DevclusterError: a name or path that mounts, cgroups or certificates could not carry.
    """
    cache = Path(env.get("PITCREW_CACHE") or _default_cache(env, home)).absolute()
    name = env.get("PITCREW_CLUSTER") or "pitcrew"
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
        raise DevclusterError(
            f"PITCREW_CLUSTER={name!r} is no cluster name: "
            "use 1 to 32 lower-case letters, digits and dashes"
        )
    if re.search(r"[\s:,\\]", str(cache)):
        raise DevclusterError(
            f"PITCREW_CACHE={str(cache)!r} holds a space, comma, colon or backslash, "
            "which mount options cannot carry: choose another directory"
        )
    return Config(cache, name, parse_port(env.get("PITCREW_PORT") or str(DEFAULT_PORT)))


def parse_port(text: str) -> int:
    """A TCP port that is free for ordinary programs, 1024 to 65535.

    Raises:
        DevclusterError: the text is no such number.
    """
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise DevclusterError(f"port {text!r} is not a number from 1024 to 65535")
    return int(text)


def _default_cache(env: Mapping[str, str], home: Path) -> Path:
    return Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "pitcrew"
