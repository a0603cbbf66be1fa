"""The command line: words to calls. It holds no logic of its own."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from devcluster import addon, cluster, controlplane, images, node, rootfs, status, volume
from devcluster import config as configuration
from devcluster.api import Api, service_address
from devcluster.artefacts import ensure
from devcluster.buildah import Buildah
from devcluster.config import Config
from devcluster.errors import DevclusterError
from devcluster.forward import forward
from devcluster.machine import go_version, mirror
from devcluster.preflight import check
from devcluster.progress import Stage, note

DESCRIPTION = """\
A real single-node Kubernetes in namespaces of its own: nothing on this machine changes.

PITCREW_CACHE    where builds, images and clusters lie (default ~/.cache/pitcrew)
PITCREW_CLUSTER  the cluster's name (default pitcrew); PITCREW_PORT its port (default 26443)
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every expected error is one message, no trace."""
    options = parser().parse_args(arguments)
    try:
        config = configuration.from_environment(os.environ, Path.home())
        return int(options.call(config, options) or 0)
    except DevclusterError as error:
        note(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        note("interrupted; `python3 -m devcluster down` removes what was started")
        return 130


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="python3 -m devcluster",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, call: object, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(call=call)
        return one

    one = command("up", _up, "start the cluster; the first time builds it, which takes minutes")
    one.add_argument("--port", help="the API server's port on 127.0.0.1 (default 26443)")
    one = command("down", _down, "end the cluster and leave nothing behind")
    one.add_argument("--keep", action="store_true", help="objects and volumes survive to next `up`")
    one.add_argument("--purge", action="store_true", help="remove all of it, images and keys too")
    command("status", _status, "show what runs; exit code 0 only if the cluster is well")
    one = command("kubeconfig", _kubeconfig, "print the kubeconfig's path")
    one.add_argument("--raw", action="store_true", help="print its text instead")
    one = command("build", _build, "build the project's images; load them if the cluster is up")
    one.add_argument("--target", choices=[*images.TARGETS, "all"], default="all")
    one = command("load", _load, "give the cluster an image")
    one.add_argument("image", metavar="IMAGE_OR_TAR", help="a built image or a docker-archive")
    one = command("volume", _volume, "offer a directory to pods as a read-only claim")
    one.add_argument("name", metavar="NAME", help="the PersistentVolumeClaim's name")
    one.add_argument("directory", metavar="DIR", type=Path)
    one.add_argument("--namespace", "-n", default="default", help="made if it is not there")
    one = command("addon", _addon, "install what not every cluster has; built on first use")
    one.add_argument("name", choices=[*addon.ADDONS], help=", ".join(addon.ADDONS))
    one = command("exec", _exec, "run a command in the node: `exec -- ctr -n k8s.io images ls`")
    one.add_argument("words", metavar="CMD", nargs="+")
    one = command("logs", _logs, "print a component's log, such as kubelet")
    one.add_argument("component", metavar="COMPONENT")
    one = command("forward", _forward, "lead a port here to a Service; prints the address")
    one.add_argument("service", metavar="NAMESPACE/NAME[:PORT]", help="port: default the first one")
    one.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: any free one)")
    command("plane", _plane, "run a control plane without a node, in the foreground, for tests")
    command("tools", _tools, "print the directory that holds kubectl and helm, for PATH")
    return top


def _up(config: Config, options: argparse.Namespace) -> None:
    if options.port:
        config = replace(config, port=configuration.parse_port(options.port))
    check(config, needs_port=node.running(config) is None)
    record = cluster.up(config, go_version(), mirror())
    if record.port != config.port:
        note(f"it was started with port {record.port}, which it keeps until `down`")
    note(f"export KUBECONFIG={config.kubeconfig} PATH={config.tools}:$PATH")


def _down(config: Config, options: argparse.Namespace) -> None:
    with Stage(f"cluster {config.name} down"):
        cluster.down(config, keep=options.keep, purge=options.purge)


def _status(config: Config, _: argparse.Namespace) -> int:
    found = status.look(config)
    print(status.render(found))
    return 0 if found.healthy else 1


def _kubeconfig(config: Config, options: argparse.Namespace) -> None:
    node.require(config)
    print(config.kubeconfig.read_text() if options.raw else config.kubeconfig)


def _build(config: Config, options: argparse.Namespace) -> None:
    check(config, needs_port=False)
    buildah, archive = _buildah(config), mirror()
    for target in images.TARGETS if options.target == "all" else (options.target,):
        built = images.build(config, buildah, archive, target)
        print(
            f"{images.short_name(built.reference)}  {built.size / 1e6:.0f} MB  {built.image[:12]}"
        )
        if node.running(config):
            _load_one(config, buildah, built.reference, built.image)


def _load(config: Config, options: argparse.Namespace) -> None:
    _load_one(config, _buildah(config), options.image, None)


def _load_one(config: Config, buildah: Buildah, name: str, image: str | None) -> None:
    with Stage(f"load {images.short_name(name)}") as stage:
        if not images.load(config, buildah, name, image):
            stage.say("held already")


def _volume(config: Config, options: argparse.Namespace) -> None:
    size = volume.offer(config, options.name, options.directory, options.namespace)
    print(f"persistentvolumeclaim/{options.name} in {options.namespace}: {size / 1e6:.1f} MB")


def _addon(config: Config, options: argparse.Namespace) -> None:
    check(config, needs_port=False)
    image = addon.install(config, options.name, go_version())
    if image is not None:
        print(image)


def _exec(config: Config, options: argparse.Namespace) -> None:
    command = node.inside(config, options.words)
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606  (this process becomes the command)


def _forward(config: Config, options: argparse.Namespace) -> None:
    record = node.require(config)
    pid = record.init()
    assert pid is not None
    address = service_address(Api(config.pki, record.port), options.service)
    forward(options.port, pid, address, lambda port: print(f"127.0.0.1:{port}", flush=True))


def _logs(config: Config, options: argparse.Namespace) -> None:
    file = config.logs / f"{options.component}.log"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in config.logs.glob("*.log"))) or "none yet"
        raise DevclusterError(f"no log of {options.component}; there are: {known}")
    sys.stdout.write(file.read_text(errors="replace"))


def _plane(config: Config, _: argparse.Namespace) -> None:
    controlplane.serve(config, go_version())


def _tools(config: Config, _: argparse.Namespace) -> None:
    cluster.link_tools(config, cluster.make_parts(config, go_version(), mirror()))
    print(config.tools)


def _buildah(config: Config) -> Buildah:
    return Buildah(config, ensure(config, rootfs.node(mirror())))
