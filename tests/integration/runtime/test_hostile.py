"""Whatever is sent, the answer is no 5xx, and the next request is served as before.

One test for each class of vulnerability that LLM servers have had; each names its example.
"""

import contextlib
import hmac
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from bench.fuzz import cases, run
from pitcrew_runtime.errors import Unauthorized
from pitcrew_runtime.server.keys import Keyring
from tests.integration.runtime.conftest import Engines
from tests.integration.runtime.servers import DEADLINE, Server, serving, wait_until

ROOT = Path(__file__).parents[3]
GOOD = {"model": "model", "prompt": "In the", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Short sequences: no request of any kind keeps it long."""
    engine = engines("tiny-kjv", "--max-sequence-length", "64")
    with serving(engine, tmp_path_factory.mktemp("hostile")) as found:
        yield found


def complete(server: Server, **fields: Any) -> httpx.Response:  # noqa: ANN401
    return httpx.post(f"{server.url}/v1/completions", json=GOOD | fields, timeout=DEADLINE)


@pytest.fixture(autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    before = complete(server).json()["choices"]
    yield
    assert server.get("/health/ready").json() == {"status": "ok"}
    wait_until(server.empty, "nothing runs on")
    assert complete(server).json()["choices"] == before
    assert " ERROR " not in server.log.read_text()


def test_what_the_description_allows(server: Server) -> None:
    described = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        check_operation(operation)


def aim(case: Any) -> None:  # noqa: ANN401 - schemathesis's own
    """Name the model that is there, or most requests would end with the answer that it is not."""
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = "model"
    if "model" in (case.path_parameters or {}):
        case.path_parameters["model"] = "model"


def check_operation(operation: Any) -> None:  # noqa: ANN401 - schemathesis's own
    @given(operation.as_strategy())
    @settings(
        max_examples=8,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    def send(case: schemathesis.Case) -> None:
        aim(case)
        case.call_and_validate(checks=[not_a_server_error], timeout=DEADLINE)

    send()


def test_random_bodies(server: Server) -> None:
    statuses, failed = run(server.url, "model", 300, seed=7)
    assert failed == []
    assert {"200", "400"} <= set(statuses)
    assert [case.content for case in cases("model", 20, 7)] == [
        case.content for case in cases("model", 20, 7)
    ]


def test_no_module_of_ours_can_unpickle(server: Server) -> None:
    """CVE-2024-50050, CVE-2025-30202: objects that are code, read from a socket or a file."""
    sources = [path.read_text() for path in (ROOT / "runtime").rglob("*.py")]
    assert len(sources) > 50
    for source in sources:
        assert not re.search(
            r"^\s*(import|from) +(pickle|marshal|shelve|dill|torch)", source, re.MULTILINE
        )
        assert "allow_pickle=True" not in source
    body = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93."
    headers = {"content-type": "application/x-pickle"}
    answer = httpx.post(f"{server.url}/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400


def test_a_clients_template_is_not_rendered(server: Server) -> None:
    """CVE-2026-5760, CVE-2025-61620: template escape. Templates come with the engine, sandboxed."""
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    chat = {"model": "model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    for fields, refused in (
        ({"chat_template": escape}, "does not know the field"),
        ({"chat_template_kwargs": {"chat_template": escape}}, "does not read it"),
        ({"chat_template_kwargs": {"messages": escape}}, "does not read it"),
        ({"chat_template_kwargs": {"raise_exception": escape}}, "does not read it"),
    ):
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=chat | fields)
        assert answer.status_code == 400
        assert refused in answer.json()["error"]["message"]
    told = {**chat, "messages": [{"role": "user", "content": escape}]}
    ids = httpx.post(f"{server.url}/tokenize", json={"messages": told["messages"]}).json()["tokens"]
    text = httpx.post(f"{server.url}/detokenize", json={"tokens": ids}).json()["prompt"]
    assert escape in text


@pytest.mark.parametrize(
    "field",
    [
        {"guided_regex": "((a{0,1000}){0,1000}){0,1000}"},
        {"guided_regex": "(" * 30_000},
        {"guided_grammar": "start: start start"},
        {"guided_json": {"$ref": "#"}},
        {"guided_json": {"type": "array", "minItems": 10**12}},
        {"guided_json": {"pattern": "(x+x+)+y", "type": "string"}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"type": ["sonnet"]}},
            }
        },
    ],
    ids=str,
)
def test_grammars_that_blow_up(server: Server, field: dict[str, Any]) -> None:
    """CVE-2025-48944, CVE-2025-48942: a bad pattern or schema ended the process."""
    assert complete(server, **field).status_code in (200, 400)


def test_huge_headers(server: Server) -> None:
    """CVE-2025-48956: a header of gigabytes, kept in memory."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: ")
        sent = 0
        try:
            while sent < 50_000_000:
                connection.sendall(b"y" * 65_536)
                sent += 65_536
        except OSError:
            pass  # the server has closed
        assert sent < 50_000_000


@pytest.mark.parametrize(
    "headers", [{f"x-{n}": "y" for n in range(101)}, {"x": "y" * 40_000}], ids=["many", "long"]
)
def test_headers_beyond_their_limits(server: Server, headers: dict[str, str]) -> None:
    """CVE-2025-48956 too, where they come in one piece."""
    answer = httpx.get(f"{server.url}/v1/models", headers=headers)
    assert answer.status_code == 431
    assert answer.json()["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (b"GET /v1/models HTTP/1.1\r\n", b"X: y\r\n"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n", b" "),
        (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["headers", "body", "chunks"],
)  # fmt: skip
def test_requests_that_never_end(impatient: Server, begin: bytes, drip: bytes) -> None:
    """CVE-2007-6750, slow loris: connections held for as long as a byte comes now and then."""
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=DEADLINE) as connection:
        connection.sendall(begin)
        connection.settimeout(0.05)
        answer, deadline = b"", time.monotonic() + DEADLINE
        while not answer:
            assert time.monotonic() < deadline, "the connection is held"
            with contextlib.suppress(TimeoutError):
                connection.sendall(drip)
                answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408 ")
        connection.settimeout(DEADLINE)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: +5\r\n",
        b"Host: y\r\n",
    ],
    ids=lambda headers: headers.decode().replace("\r\n", " "),
)
def test_no_request_is_smuggled(server: Server, headers: bytes) -> None:
    """CWE-444, as in CVE-2025-43859: what a proxy takes for a body is read as a request."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as connection:
        begin = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
        smuggled = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(begin + headers + b"\r\n" + smuggled)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("path", ["/nowhere", "/v1/load_lora_adapter"])
def test_what_comes_behind_an_answer_is_nobodys_fault(server: Server, path: str) -> None:
    """A body that goes on, and wrong, once its request was answered wrote a traceback to the log."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as connection:
        begin = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(begin.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 40")
        connection.sendall(b"ZZZ\r\n")
        while connection.recv(4096):  # what is left of the answer, to its end
            pass
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def impatient(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    engine = engines("tiny-kjv", "--max-sequence-length", "64")
    options = ("--client-seconds", "0.5", "--grpc-port", "0")
    with serving(engine, tmp_path_factory.mktemp("slow"), *options) as found:
        yield found


@pytest.mark.parametrize(
    "begin", [b"", b"PRI * HTTP/2.0\r\n\r\n"], ids=["silence", "half a preface"]
)
def test_grpc_that_never_begins(impatient: Server, begin: bytes) -> None:
    port = re.search(r"gRPC on \S+ port (\d+)", impatient.log.read_text())
    assert port is not None
    with socket.create_connection(("127.0.0.1", int(port[1])), timeout=DEADLINE) as connection:
        connection.sendall(begin)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass


@pytest.mark.parametrize(
    "field",
    [
        {"n": 10**9},
        {"n": 128, "prompt": ["x"] * 128},
        {"best_of": 10**9},
        {"max_tokens": 10**18},
        {"min_tokens": 10**18},
        {"max_tokens": 10**4300 - 1},
        {"min_tokens": 10**4300 - 1},
        {"prompt": [10**4300 - 1]},
        {"logprobs": 10**6},
        {"prompt": [[1]] * 10_000},
        {"stop": ["x" * 10_000]},
        {"logit_bias": {str(token): 1 for token in range(2000)}},
        {"prompt": "x" * 5_000_000},
        {"top_k": 2**63},
        {"seed": 2**80},
    ],
    ids=lambda field: str(field)[:24],
)
def test_huge_numbers(server: Server, field: dict[str, Any]) -> None:
    """CVE-2024-8939: `best_of` and its like took all there was."""
    answer = complete(server, **field)
    assert answer.status_code == (200 if "top_k" in field else 400)
    assert len(answer.text) < 1000


def test_tokenizing_is_bounded(server: Server) -> None:
    """A text of megabytes took gigabytes, although it could never fit."""

    def post(path: str, **body: Any) -> tuple[int, str]:  # noqa: ANN401
        answer = httpx.post(server.url + path, json={"model": "model", **body}, timeout=DEADLINE)
        return answer.status_code, answer.json()["error"]["message"] if answer.is_error else ""

    assert post("/tokenize", prompt="a" * (1 << 20))[0] == 200
    assert post("/tokenize", prompt="a" * (1 << 20) + "a")[0] == 400
    status, says = post("/v1/completions", prompt="a" * 1500)
    assert status == 400
    assert "the first 1500 characters are" in says


@pytest.mark.parametrize("text", ["\r\nERROR forged: line", "\x1b[2J\x1b]0;x\x07", "%(levelname)s"])
def test_the_log_is_not_written_by_clients(server: Server, text: str) -> None:
    """CWE-117: line breaks and terminal codes of a request, forged into the log."""
    before = server.log.read_bytes()
    complete(server, model=text, user=text)
    httpx.get(f"{server.url}/v1/models/{httpx.QueryParams({'x': text})}")
    httpx.post(f"{server.url}/v1/completions", headers={"x-request-id": "a"}, content=text.encode())
    assert server.log.read_bytes() == before


@pytest.mark.parametrize(
    "sent", [b"", b"Bearer first", b"Bearer third", b"Bearer f", b"Bearer " + b"x" * 9000]
)
def test_keys_are_compared_by_digest_and_in_constant_time(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-59425: the clock told how much of a key was right.

    Whatever is sent, and wherever the right key stands, the same is done: each key is compared, by
    the standard library's constant-time comparison, with something as long as itself.
    """
    lengths: list[tuple[int, int]] = []
    genuine = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        lengths.append((len(one), len(other)))
        return genuine(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keyring = Keyring(["first", "second" * 50, "third"])
    try:
        known = bool(keyring.number(sent))
    except Unauthorized:
        known = False
    assert known == (sent in (b"Bearer first", b"Bearer third"))
    assert lengths == [(32, 32)] * 3


def test_nobody_learns_what_others_have_asked(server: Server) -> None:
    """CVE-2025-46570: a prompt that others had sent before was answered faster."""

    def found(salt: str) -> float:
        before = server.metric("pitcrew_prefix_cache_hit_tokens_total")
        assert complete(server, prompt=[7] * 48, cache_salt=salt).status_code == 200
        return server.metric("pitcrew_prefix_cache_hit_tokens_total") - before

    assert found("mine") == 0
    assert found("mine") > 0, "what is one's own is found"
    assert found("another's") == 0


@pytest.mark.parametrize("scheme", ["http", "https", "file"])
def test_no_address_in_a_request_is_fetched(server: Server, scheme: str) -> None:
    """CVE-2025-6242: the address of an image led the server into its own network."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/etc/passwd"
        image = {"type": "image_url", "image_url": {"url": address}}
        chat = {"model": "model", "messages": [{"role": "user", "content": [image]}]}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=chat).status_code == 400
        complete(server, guided_json={"$ref": address})
        complete(server, prompt=address)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_code_that_lies_in_an_engine_is_not_run(engines: Engines, tmp_path: Path) -> None:
    """CVE-2026-22807 too: not as a module, and not because a configuration names it."""
    engine = Path(shutil.copytree(engines("tiny-kjv"), tmp_path / "engine"))
    mark = tmp_path / "it-ran"
    for name in ("sitecustomize.py", "modeling_tiny.py", "tokenization_tiny.py", "json.py"):
        for folder in (engine, engine / "tokenizer"):
            (folder / name).write_text(f"open({str(mark)!r}, 'w')")
    with serving(engine, tmp_path) as found:
        assert complete(found).status_code == 200
    assert not mark.exists()


def test_no_code_comes_with_an_engine(server: Server) -> None:
    """CVE-2026-22807: a checkpoint's own code, run despite being told not to."""
    check = "import sys, pitcrew_runtime.serve; print(*sys.modules)"
    run_it = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=DEADLINE
    )
    loaded = set(run_it.stdout.split())
    assert not loaded & {"torch", "transformers", "pickle5", "cloudpickle", "dill"}
    for path in (ROOT / "runtime").rglob("*.py"):
        assert "trust_remote_code" not in path.read_text()


def test_shared_memory_is_not_for_clients(server: Server) -> None:
    """CVE-2025-23319: an error told the name of a shared region, which clients could register."""
    for path in (
        "systemsharedmemory/status",
        "cudasharedmemory/status",
        "systemsharedmemory/region/x/register",
    ):
        assert httpx.post(f"{server.url}/v2/{path}", json={}).status_code == 404
    inputs = [
        {"name": "text_input", "datatype": "BYTES", "shape": [1],
         "parameters": {"shared_memory_region": "x", "shared_memory_byte_size": 8}}
    ]  # fmt: skip
    answer = httpx.post(f"{server.url}/v2/models/model/infer", json={"inputs": inputs})
    assert answer.status_code == 400


def test_chunks_are_no_allocations(server: Server) -> None:
    """CVE-2025-23310: thousands of tiny chunks, each on the stack."""
    pieces = (b" " for _ in range(20_000))
    answer = httpx.post(f"{server.url}/v1/completions", content=pieces, timeout=DEADLINE)
    assert answer.status_code == 400
