"""Sends hostile requests to a running server: none may be answered with 5xx, nor harm it.

    python bench/fuzz.py --url http://127.0.0.1:8000 --model tiny-kjv --count 10000

Requests are valid bodies with up to four things wrong: values of another type, huge or tiny
numbers, long lists, deep nesting, stray Unicode, fields that do not exist, JSON that is cut off, and bytes that
are no HTTP at all. They follow from `--seed`. Prints what was answered, by status.
"""

import argparse
import json
import platform
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

CLIENTS = 4
SECONDS = 60.0
BROKEN = "closed"
"""What was no HTTP has no status."""

Json = dict[str, Any]

_SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "integer"}}}
_TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": _SCHEMA}}
_SAMPLING: Json = {
    "max_tokens": 4, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "n": 2, "seed": 3,
    "presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1, "min_tokens": 1,
    "logit_bias": {"5": 1.0}, "stop": ["x"], "stop_token_ids": [3], "stream": False,
    "response_format": {"type": "json_object"}, "guided_regex": "a+", "guided_choice": ["a", "b"],
    "guided_json": _SCHEMA, "guided_grammar": 'start: "a"', "structured_outputs": {"regex": "a"},
    "priority": 0, "timeout": 9.0, "cache_salt": "s", "user": "u", "ignore_eos": False,
}  # fmt: skip
_TENSOR: Json = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["Hail"]}


def bodies(model: str) -> dict[str, Json]:
    """A valid body for each endpoint that takes one, with every field at hand."""
    message = {"role": "user", "content": "Hail"}
    return {
        "/v1/completions": {
            "model": model, "prompt": "Hail", "logprobs": 2, "echo": True, "best_of": 3, **_SAMPLING,
        },
        "/v1/chat/completions": {
            "model": model, "messages": [message], "tools": [_TOOL], "tool_choice": "auto",
            "logprobs": True, "top_logprobs": 2, **_SAMPLING,
        },
        "/v1/embeddings": {"model": model, "input": "Hail"},
        "/tokenize": {"model": model, "messages": [message], "tools": [_TOOL]},
        "/detokenize": {"model": model, "tokens": [1, 2, 3]},
        f"/v2/models/{model}/infer": {"inputs": [_TENSOR], "parameters": {"max_tokens": 3}},
        f"/v2/models/{model}/generate": {
            "text_input": "Hail", "parameters": {"max_tokens": 3}, "sampling_parameters": '{"n": 2}',
        },
        f"/v2/models/{model}/generate_stream": {"text_input": "Hail", "parameters": {"n": 2}},
    }  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One request."""

    path: str
    content: bytes
    headers: dict[str, str]
    raw: bytes | None = None
    """Sent as it is, instead of all the above."""


def cases(model: str, count: int, seed: int) -> Iterator[Case]:
    """The requests that follow from a seed."""
    rng = random.Random(seed)
    valid = bodies(model)
    for _ in range(count):
        if rng.random() < 0.03:
            yield Case("", b"", {}, _no_http(rng))
            continue
        path = rng.choice(list(valid))
        body = _some_fields(rng, valid[path])
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            _spoil(rng, body)
        yield Case(path, _content(rng, body), _headers(rng))


def _some_fields(rng: random.Random, body: Json) -> Json:
    needed = {"model", "prompt", "messages", "text_input", "inputs", "tokens"}
    found = {key: value for key, value in body.items() if key in needed or rng.random() < 0.15}
    return json.loads(json.dumps(found))


def _spoil(rng: random.Random, body: Any) -> None:  # noqa: ANN401 - JSON
    """Change something, somewhere in a body."""
    keys = list(body) if isinstance(body, dict) else list(range(len(body)))
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(body[key], dict | list) and rng.random() < 0.5:
        _spoil(rng, body[key])
    elif isinstance(body, dict) and rng.random() < 0.1:
        body[_text(rng)] = _value(rng)
    elif rng.random() < 0.1:
        del body[key]
    else:
        body[key] = _value(rng)


def _value(rng: random.Random, depth: int = 0) -> Any:  # noqa: ANN401 - JSON
    plain: list[Any] = [
        None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**40, 10**4300 - 1, 0.0, -0.5, 1e308, 1e-308,
        "", [], {}, "none", "auto", "required", "NaN",
    ]  # fmt: skip
    choice = rng.random()
    if choice < 0.5 or depth > 3:
        return rng.choice(plain)
    if choice < 0.75:
        return _text(rng)
    if choice < 0.85:
        return [_value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if choice < 0.87:
        return [rng.choice([None, -1, 0.5, "", {}])] * 20_000
    if choice < 0.95:
        return {_text(rng): _value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    return _nested(rng.choice([10, 100, 190]))


def _nested(depth: int) -> Any:  # noqa: ANN401 - JSON
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


_TEXTS = (
    "\0", "\ud800", "\N{RIGHT-TO-LEFT OVERRIDE}", "💥", "é" * 300, "../../etc/passwd",
    "{{ 7*7 }}", "{% for x in range(10**9) %}{% endfor %}", "'; DROP TABLE", "\r\nX-Evil: 1",
    "<tool_call>", "<|end|>", "(" * 50, "((a+)+)+$", "(?=x)", 'start: start start | "a"',
    "[" * 2000, '{"$ref": "#"}', "http://127.0.0.1/", "%s%n", '{"guided_regex": "\\ud800"}', '{"guided_choice": ["\\ud800"]}', "a" * 20_000,
)  # fmt: skip


def _text(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(_TEXTS)
    return "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0xD800)])) for _ in range(9))


def _content(rng: random.Random, body: Json) -> bytes:
    raw = json.dumps(body).encode()
    if rng.random() < 0.03:
        return raw[: rng.randrange(len(raw))]
    if rng.random() < 0.03:
        position = rng.randrange(len(raw))
        return raw[:position] + rng.randbytes(3) + raw[position:]
    return raw


def _headers(rng: random.Random) -> dict[str, str]:
    odd = {
        "content-type": rng.choice(["application/json", "text/plain", "x", "multipart/form-data"]),
        "authorization": rng.choice(["Bearer x", "Basic eA==", "Bearer"]),
        "inference-header-content-length": rng.choice(["0", "-1", "7", "1e3", "9" * 30]),
        "content-encoding": "gzip",
        "x-long": "x" * 9000,
    }
    return {key: value for key, value in odd.items() if rng.random() < 0.08}


def _no_http(rng: random.Random) -> bytes:
    return rng.choice(
        [
            rng.randbytes(200),
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
            b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFF\r\n{",
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
            b"GET " + b"/a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"BREW /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        ]
    )


def send(client: httpx.Client, case: Case) -> str:
    """The status of the answer; `BROKEN` where there is none to something that was no HTTP."""
    if case.raw is not None:
        return _send_raw(str(client.base_url), case.raw)
    answer = client.post(case.path, content=case.content, headers=case.headers)
    return str(answer.status_code)


def _send_raw(url: str, raw: bytes) -> str:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            head = connection.recv(64)
        except OSError:
            return BROKEN
    return head.split(b" ")[1].decode() if head.startswith(b"HTTP/1.1 ") else BROKEN


def run(url: str, model: str, count: int, seed: int) -> tuple[Counter[str], list[Case]]:
    """How often each status was answered, and the cases that were answered with 5xx."""
    todo = list(cases(model, count, seed))
    parts = [todo[start::CLIENTS] for start in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answered = [
            pair for part in pool.map(lambda part: _send_all(url, part), parts) for pair in part
        ]
    statuses = Counter(status for _, status in answered)
    return statuses, [case for case, status in answered if status.startswith("5")]


def _send_all(url: str, todo: list[Case]) -> list[tuple[Case, str]]:
    """With a client of its own: threads share nothing."""
    with httpx.Client(base_url=url, timeout=SECONDS) as client:
        return [(case, send(client, case)) for case in todo]


def main() -> int:
    """1 where a request was answered with 5xx, or the server is not as before."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="tiny-kjv")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    statuses, failed = run(options.url, options.model, options.count, options.seed)
    print(
        f"{platform.machine()}, {platform.system()}: {options.count} requests in {time.monotonic() - started:.0f} s"
    )
    for status, number in sorted(statuses.items()):
        print(f"  {status:>6}  {number:>6}")
    for case in failed[:5]:
        print(f"5xx: {case.path} {case.headers} {case.content[:500]!r}", file=sys.stderr)
    ready = httpx.get(f"{options.url}/health/ready").status_code == 200
    return 0 if ready and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
