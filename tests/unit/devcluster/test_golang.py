from pathlib import Path

import pytest

from devcluster.golang import (
    COMPONENTS,
    addons,
    go_directive,
    kubernetes,
    kubernetes_flags,
    least_go,
    required,
)

GO_MOD = """\
module example

go 1.26.0

require example.com/one v1.2.3

require (
	example.com/two v0.1.0
	example.com/twofold v9.9.9 // indirect
)
"""


def test_versions_come_from_the_module_file(tmp_path: Path) -> None:
    file = tmp_path / "go.mod"
    file.write_text(GO_MOD)
    assert required(file, "example.com/one") == "v1.2.3"
    assert required(file, "example.com/two") == "v0.1.0"
    assert go_directive(file) == (1, 26, 0)
    with pytest.raises(LookupError, match=r"example\.com/three"):
        required(file, "example.com/three")


def test_every_component_reports_the_version() -> None:
    flags = kubernetes_flags("v1.36.3").split()
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        assert f"{package}.gitVersion=v1.36.3" in flags
        assert f"{package}.gitMinor=36" in flags


def test_artefacts_carry_the_versions_that_are_locked() -> None:
    assert kubernetes("go1.26.8").directory_name.startswith("kubernetes-v1.36.3-")
    assert addons("go1.26.8").key != kubernetes("go1.26.8").key
    assert "kubelet" in COMPONENTS


def test_another_go_makes_another_artefact() -> None:
    assert kubernetes("go1.26.8").key != kubernetes("go1.26.9").key
    assert kubernetes("go1.26.8").key == kubernetes("go1.26.8").key


def test_the_least_go_is_that_of_what_every_cluster_needs() -> None:
    assert least_go() >= (1, 26, 0)
