import base64
import io
import json
import threading
from pathlib import Path

from devcluster.api import condition
from devcluster.pki import CLIENTS, SUBJECTS, kubeconfig
from devcluster.progress import Stage, clock
from devcluster.status import Row, Status, parse_memory, render
from devcluster.volume import manifests


class Terminal(io.StringIO):
    """A terminal that tells when a word was shown on it."""

    def __init__(self, awaited: str) -> None:
        super().__init__()
        self._awaited = awaited
        self.seen = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._awaited in text:
            self.seen.set()
        return super().write(text)


def test_times_are_written_as_people_read_them() -> None:
    assert [clock(s) for s in (7.44, 93.4, 372)] == ["7.4 s", "93 s", "6 min 12 s"]


def test_a_stage_is_alive_on_a_terminal() -> None:
    out = Terminal("runtime/cgo")
    with Stage("kubernetes", "takes minutes", out) as stage:
        stage.say("runtime/cgo")
        assert out.seen.wait(10)
    assert "kubernetes (takes minutes)" in out.getvalue()
    assert out.getvalue().splitlines()[-1].split("\x1b[K")[-1].startswith("✓ kubernetes")


def test_a_stage_in_a_log_is_one_line() -> None:
    out = io.StringIO()
    with Stage("kubernetes", out=out):
        pass
    assert len(out.getvalue().splitlines()) == 1
    assert "\r" not in out.getvalue()


def test_a_failed_stage_says_so() -> None:
    out = io.StringIO()
    try:
        with Stage("kubernetes", out=out):
            raise ValueError
    except ValueError:
        pass
    assert out.getvalue().startswith("✗ kubernetes")


def test_memory_is_read_from_the_kernels_summary() -> None:
    text = "55d0-7ff ---p 0 00:00 0 [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Anon: 5 kB\n"
    assert parse_memory(text) == (2 * 2**20, 2**20)


def test_the_table_shows_components_sum_and_health() -> None:
    rows = (Row("etcd", 11, 30 * 2**20, 20 * 2**20, 5), Row("kubelet", 12, 2**20, 2**20, 5))
    status = Status(rows, api=True, node=False, dns=False)
    text = render(status)
    assert not status.healthy
    assert "31 MiB" in text
    assert "21 MiB" in text
    assert "node Ready                NO" in text


def test_no_cluster_says_how_to_start_one() -> None:
    assert "devcluster up" in render(Status((), api=False, node=False, dns=False))


def test_a_condition_is_found_or_empty() -> None:
    document = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert condition(document, "Ready")["status"] == "True"
    assert condition(document, "Other") == {}
    assert condition(None, "Ready") == {}


def test_a_data_volume_is_bound_by_name_and_read_only() -> None:
    space, offered, claim = manifests("models", "demo")["items"]
    assert space["metadata"]["name"] == "demo"
    assert offered["spec"]["claimRef"] == {"namespace": "demo", "name": "models"}
    assert claim["spec"]["volumeName"] == offered["metadata"]["name"] == "data-demo-models"
    for document in (offered, claim):
        assert document["spec"]["accessModes"] == ["ReadOnlyMany"]
        assert document["spec"]["storageClassName"] == "devcluster-data"
    assert manifests("models", "other")["items"][1]["metadata"]["name"] == "data-other-models"


def test_every_client_has_a_certificate_and_a_kubeconfig_carries_it(tmp_path: Path) -> None:
    assert set(CLIENTS) <= {subject.name for subject in SUBJECTS}
    for name in ("ca.crt", "admin.crt", "admin.key"):
        (tmp_path / name).write_text(name)
    document = json.loads(kubeconfig(tmp_path, "admin", "https://127.0.0.1:26443", "dev"))
    user = document["users"][0]["user"]
    assert base64.b64decode(user["client-key-data"]) == b"admin.key"
    assert document["current-context"] == document["contexts"][0]["name"] == "dev"


def test_the_api_server_is_good_for_every_name_it_is_called_by() -> None:
    server = next(subject for subject in SUBJECTS if subject.name == "apiserver")
    assert {"127.0.0.1", "10.99.0.2", "10.96.0.1"} <= set(server.ip)
    assert "kubernetes.default.svc" in server.dns
