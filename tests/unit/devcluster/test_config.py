from pathlib import Path

import pytest

from devcluster.config import Config, from_environment, parse_port
from devcluster.errors import DevclusterError

HOME = Path("/home/someone")


def test_defaults_lie_in_the_cache_of_the_user() -> None:
    config = from_environment({}, HOME)
    assert config == Config(Path("/home/someone/.cache/pitcrew"), "pitcrew", 26443)
    assert config.kubeconfig == Path("/home/someone/.cache/pitcrew/clusters/pitcrew/kubeconfig")


def test_our_own_variable_wins_over_the_desktop_standard() -> None:
    env = {"XDG_CACHE_HOME": "/x", "PITCREW_CACHE": "/y"}
    assert from_environment(env, HOME).cache == Path("/y")
    assert from_environment({"XDG_CACHE_HOME": "/x"}, HOME).cache == Path("/x/pitcrew")


def test_clusters_share_builds_and_nothing_else() -> None:
    one = from_environment({"PITCREW_CLUSTER": "one"}, HOME)
    two = from_environment({"PITCREW_CLUSTER": "two"}, HOME)
    assert one.artefacts == two.artefacts
    assert one.storage == two.storage
    assert not {one.state, one.containerd, one.data} & {two.state, two.containerd, two.data}


@pytest.mark.parametrize("name", ["-a", "A", "a/b", "..", "a" * 33, "a b"])
def test_a_bad_name_is_refused_by_its_variable(name: str) -> None:
    with pytest.raises(DevclusterError, match="PITCREW_CLUSTER="):
        from_environment({"PITCREW_CLUSTER": name}, HOME)


@pytest.mark.parametrize("path", ["/a b", "/a:b", "/a,b"])
def test_a_path_that_mount_options_cannot_carry_is_refused(path: str) -> None:
    with pytest.raises(DevclusterError, match="PITCREW_CACHE="):
        from_environment({"PITCREW_CACHE": path}, HOME)


@pytest.mark.parametrize("port", ["", "80", "65536", "-1", "x", "1e4"])
def test_a_bad_port_is_refused(port: str) -> None:
    with pytest.raises(DevclusterError, match="1024 to 65535"):
        parse_port(port)
