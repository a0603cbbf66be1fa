"""What only some clusters have: found by what it is made of, installed with little asked for."""

from devcluster.addon import ADDONS, values
from devcluster.golang import addons, lws


def test_an_addon_is_an_artefact_of_its_own_version() -> None:
    assert ADDONS["lws"].artefact("go1.26.8").directory_name.startswith("lws-v0.9.0-")
    assert lws("go1.26.8").key != lws("go1.26.9").key
    assert lws("go1.26.8").key != addons("go1.26.8").key
    extension = ADDONS["inference-extension"].artefact("go1.26.8")
    assert extension.directory_name.startswith("inference-extension-v1.6.0-")
    picker = ADDONS["endpoint-picker"].artefact("go1.26.8")
    assert picker.directory_name.startswith("endpoint-picker-v1.5.0-")


def test_the_chart_takes_our_image_and_never_pulls() -> None:
    settings = values("example/lws", "abc")
    assert {
        "image.manager.repository=example/lws",
        "image.manager.tag=abc",
        "image.manager.pullPolicy=Never",
    } <= set(settings)


def test_a_probe_is_an_object_of_what_is_installed() -> None:
    probe = ADDONS["lws"].probe
    assert probe is not None
    assert probe["apiVersion"].startswith("leaderworkerset.x-k8s.io/")
    assert probe["spec"]["leaderWorkerTemplate"]["workerTemplate"]
