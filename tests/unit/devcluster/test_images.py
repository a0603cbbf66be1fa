import io
import json
import tarfile
from pathlib import Path

import pytest

from devcluster import archive, network, pythonbase
from devcluster.buildah import parse_size
from devcluster.config import REPO
from devcluster.debian import Mirror
from devcluster.images import TARGETS, full_name, inputs, nameless, reference

MIRROR = Mirror("http://mirror.example/debian", "amd64")


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: (tar.extractfile(info) or io.BytesIO()).read() for info in tar}


def test_a_program_becomes_an_image_of_one_layer(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_bytes(b"\x7fELF")
    archive.write_program(tmp_path / "i.tar", "example.com/tool:1", program, "amd64")
    files = members(tmp_path / "i.tar")
    (manifest,) = json.loads(files["manifest.json"])
    config = json.loads(files[manifest["Config"]])
    assert manifest["RepoTags"] == ["example.com/tool:1"]
    assert config["config"]["Entrypoint"] == ["/tool"]
    assert config["config"]["User"] == "65532:65532"
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["Layers"]) == 1
    (tmp_path / "layer.tar").write_bytes(files["layer.tar"])
    assert members(tmp_path / "layer.tar") == {"tool": b"\x7fELF"}


def test_the_same_program_is_the_same_image(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_bytes(b"x")
    for name in ("a.tar", "b.tar"):
        archive.write_program(tmp_path / name, "example.com/tool:1", program, "amd64")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_names_are_completed_as_kubernetes_does() -> None:
    assert full_name("pitcrew/operator:dev") == reference("operator")
    assert full_name("localhost/x:1") == "localhost/x:1"
    assert full_name("registry.example:5000/x") == "registry.example:5000/x"


def test_an_image_is_nameless_once_a_newer_one_took_its_name() -> None:
    listing = """\
REF                     TYPE        DIGEST      SIZE PLATFORMS LABELS
docker.io/pitcrew/x:dev application sha256:new1 1MiB linux     -
pitcrew.dev/pause:1     application sha256:same 1MiB linux     -
sha256:aaaa             application sha256:old1 1MiB linux     -
sha256:bbbb             application sha256:new1 1MiB linux     -
sha256:cccc             application sha256:same 1MiB linux     -
"""
    assert nameless(listing) == ["sha256:aaaa"]
    assert nameless("") == []


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_depends_on_its_own_lock_and_on_the_sources(target: str) -> None:
    names = {path.relative_to(REPO).as_posix() for path in inputs(REPO, target)}
    assert {"Dockerfile", "pyproject.toml", f"requirements/{target}.lock"} <= names
    assert "engine_builder/pitcrew_builder/spec/build.py" in names
    others = {f"requirements/{other}.lock" for other in TARGETS} - {f"requirements/{target}.lock"}
    assert not names & others
    assert not any("__pycache__" in name or name.startswith("tests/") for name in names)


def test_base_images_are_named_by_their_content() -> None:
    build, slim = pythonbase.build(MIRROR), pythonbase.slim(MIRROR)
    assert pythonbase.reference(slim) == f"localhost/pitcrew-python:slim-{slim.key[:12]}"
    assert pythonbase.reference(build) != pythonbase.reference(slim)
    assert slim.key != pythonbase.slim(Mirror(MIRROR.uri, "arm64")).key


@pytest.mark.parametrize(
    ("text", "size"), [("101 MB", 101_000_000), ("1.5 GB", 1_500_000_000), ("12.3 kB", 12_300)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_pip_keeps_its_index_and_learns_the_certificates() -> None:
    old = "[global]\nindex-url = http://i.example/simple\ncache-dir = /x\n[install]\nuser = yes\n"
    new = network.pip_settings({}, old, "/ca.crt")
    assert "index-url = http://i.example/simple" in new
    assert "cert = /ca.crt" in new
    assert "cache-dir" not in new
    assert "user" not in new


def test_pips_environment_wins_over_its_file() -> None:
    env = {"PIP_INDEX_URL": "http://env.example/simple"}
    new = network.pip_settings(env, "[global]\nindex-url = http://file.example/simple\n", None)
    assert "http://env.example/simple" in new
    assert "file.example" not in new
    assert "cert" not in new


def test_what_a_build_step_sees_is_a_copy(tmp_path: Path) -> None:
    (tmp_path / "bundle.pem").write_text("trust")
    env = {"SSL_CERT_FILE": str(tmp_path / "bundle.pem")}
    into = tmp_path / "into"
    into.mkdir()
    volumes = network.mounts(env, "", into)
    assert [volume.rpartition(":")[2] for volume in volumes] == ["ro", "ro"]
    assert (into / "ca.crt").read_text() == "trust"
    assert f"cert = {network.INSIDE}" in (into / "pip.conf").read_text()
