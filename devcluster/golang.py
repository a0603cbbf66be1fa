"""The programs that are built from Go modules: Kubernetes in one binary, and its add-ons.

Versions are locked by the modules' go.sum files; a change to any file of a module, to the flags
or to the Go version makes a new artefact.
"""

import re
import shutil
from pathlib import Path

from devcluster.artefacts import Artefact, Say, digest, digest_files
from devcluster.config import DATA
from devcluster.process import run

COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
HELM = "helm.sh/helm/v4"
LWS = "sigs.k8s.io/lws"
LWS_PROGRAM = "manager"
"""The name that its chart calls it by."""
PICKER_PROGRAM = "epp"
INFERENCE_EXTENSION = "sigs.k8s.io/gateway-api-inference-extension"
ARGO_CD = "github.com/argoproj/argo-cd/v3"
GITOPS_PROGRAM = "gitops"
_MODULES = DATA / "go"
# cgo would tie the binaries to this machine's C library; the node and the scratch images lack it.
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}


def kubernetes(go: str) -> Artefact:
    """bin/k8s and a link for each component. `go` is the Go version that builds it."""
    module = _MODULES / "kubernetes"
    version = required(module / "go.mod", "k8s.io/kubernetes")
    flags = kubernetes_flags(version)

    def make(into: Path, say: Say) -> None:
        _build(module, flags, into / "bin" / "k8s", ["."], say)
        for component in COMPONENTS:
            (into / "bin" / component).symlink_to("k8s")

    hint = "first time: about 7 minutes on 2 cores"
    return Artefact("kubernetes", version, _key(module, flags, go), make, hint)


def addons(go: str) -> Artefact:
    """bin/coredns, bin/provisioner, bin/pause, bin/pki and bin/helm."""
    module = _MODULES / "addons"
    helm = required(module / "go.mod", HELM)
    flags = f"-s -w -X {HELM}/internal/version.version={helm}"
    packages = ["./coredns", "./provisioner", "./pause", "./pki", f"{HELM}/cmd/helm"]

    def make(into: Path, say: Say) -> None:
        _build(module, flags, into / "bin", packages, say)

    version = required(module / "go.mod", "github.com/coredns/coredns")
    hint = "CoreDNS, storage and helm; first time: about 3 minutes on 2 cores"
    return Artefact("addons", version, _key(module, flags, go), make, hint)


def lws(go: str) -> Artefact:
    """bin/manager, the LeaderWorkerSet controller, and chart/, which its module carries."""
    module = _MODULES / "lws"
    version = required(module / "go.mod", LWS)
    flags = f"-s -w -X {LWS}/pkg/version.GitVersion={version}"

    def make(into: Path, say: Say) -> None:
        _build(module, flags, into / "bin" / LWS_PROGRAM, [f"{LWS}/cmd"], say)
        shutil.copytree(_source(module, LWS) / "charts" / "lws", into / "chart")

    hint = "first time: about 2 minutes on 2 cores"
    return Artefact("lws", version, _key(module, flags, go), make, hint)


def inference_extension(go: str) -> Artefact:
    """manifests/: the InferencePool's definition, which its module carries. Nothing is compiled."""
    module = _MODULES / "inference-extension"
    version = required(module / "go.mod", INFERENCE_EXTENSION)

    def make(into: Path, say: Say) -> None:
        definitions = _source(module, INFERENCE_EXTENSION) / "config" / "crd" / "bases"
        (into / "manifests").mkdir()
        for file in definitions.glob("inference.networking.k8s.io_*.yaml"):
            shutil.copyfile(file, into / "manifests" / file.name)

    return Artefact("inference-extension", version, _key(module, "", go), make)


def endpoint_picker(go: str) -> Artefact:
    """bin/epp: the picker that reads metrics, from the last release of the extension that has it."""
    module = _MODULES / "endpoint-picker"
    version = required(module / "go.mod", INFERENCE_EXTENSION)

    def make(into: Path, say: Say) -> None:
        package = f"{INFERENCE_EXTENSION}/cmd/{PICKER_PROGRAM}"
        _build(module, "-s -w", into / "bin" / PICKER_PROGRAM, [package], say)

    hint = "first time: about 5 minutes on 2 cores"
    return Artefact("endpoint-picker", version, _key(module, "-s -w", go), make, hint)


def gitops(go: str) -> Artefact:
    """bin/gitops, which answers as Argo CD and Flux do. For tests: no cluster has it."""
    module = _MODULES / "gitops"
    version = required(module / "go.mod", ARGO_CD)

    def make(into: Path, say: Say) -> None:
        _build(module, "-s -w", into / "bin" / GITOPS_PROGRAM, ["."], say)

    hint = "Argo CD's and Flux's own code; first time: about 5 minutes on 2 cores"
    return Artefact("gitops", version, _key(module, "-s -w", go), make, hint)


def _source(module: Path, name: str) -> Path:
    """Where the source of a required module lies, fetched first if need be."""
    run(["go", "mod", "download", name], cwd=module, env=_ENVIRONMENT)
    listed = run(["go", "list", "-m", "-f", "{{.Dir}}", name], cwd=module, env=_ENVIRONMENT)
    return Path(listed.strip().splitlines()[-1])


def kubernetes_flags(version: str) -> str:
    """Linker flags that make every component and client report `version`, such as v1.36.3."""
    major, minor, _ = version.removeprefix("v").split(".", 2)
    values = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "module",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    settings = (f"-X {package}.{k}={v}" for package in packages for k, v in values.items())
    return " ".join(["-s", "-w", *settings])


def required(go_mod: Path, module: str) -> str:
    """The version of `module` that a go.mod asks for, such as v1.36.3.

    Raises:
        LookupError: the go.mod does not ask for it.
    """
    found = re.search(
        rf"^(?:require)?\s*{re.escape(module)} (v\S+)", go_mod.read_text(), re.MULTILINE
    )
    if not found:
        raise LookupError(f"{go_mod} does not require {module}")
    return found[1]


def go_directive(go_mod: Path) -> tuple[int, ...]:
    """The least Go version a module needs, such as (1, 26, 0)."""
    found = re.search(r"^go (\d+(?:\.\d+)*)$", go_mod.read_text(), re.MULTILINE)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def least_go() -> tuple[int, ...]:
    """The least Go version that builds what every cluster needs; Go itself tells what more needs."""
    return max(go_directive(_MODULES / name / "go.mod") for name in ("kubernetes", "addons"))


def _key(module: Path, flags: str, go: str) -> str:
    files = (file for file in module.rglob("*") if file.is_file())
    return digest([digest_files(module, files), flags, go])


def _build(module: Path, flags: str, output: Path, packages: list[str], say: Say) -> None:
    # The first part of the output path that exists decides: a directory gets one file per package.
    (output if len(packages) > 1 else output.parent).mkdir(parents=True)
    command: list[str | Path] = [
        "go",
        "build",
        "-trimpath",
        "-v",
        "-ldflags",
        flags,
        "-o",
        output,
        *packages,
    ]
    run(command, cwd=module, env=_ENVIRONMENT, say=say)
