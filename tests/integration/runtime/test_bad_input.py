"""What cannot be served is refused in words that name the field, and harms nobody else."""

import gzip
import json
from typing import Any

import httpx
import pytest

from tests.integration.runtime.servers import Server

COMPLETION = {"model": "model", "prompt": "In the", "max_tokens": 2}
CHAT = {"model": "model", "messages": [{"role": "user", "content": "Hail"}], "max_tokens": 2}

BAD_COMPLETIONS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"prompt": None}, "prompt", "valid"),
    ({"prompt": ""}, "prompt", "no token"),
    ({"prompt": []}, "prompt", "at least 1"),
    ({"prompt": [2048]}, "prompt", "2048 is not in [0, 2048)"),
    ({"prompt": [[1], [-1]]}, "prompt", "greater than or equal to 0"),
    ({"prompt": [1] * 1024}, "prompt", "1024 tokens, but a sequence may have 1024"),
    ({"prompt": [1] * 20, "max_tokens": 1005}, "max_tokens", "at most 1004"),
    ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
    ({"max_tokens": 10**30}, "max_tokens", "at most"),
    ({"max_tokens": "7"}, "max_tokens", "integer"),
    ({"n": 129}, "n", "less than or equal to 128"),
    ({"n": 100, "prompt": ["a", "b"]}, "n", "more than 128"),
    ({"temperature": -1}, "temperature", "greater than or equal to 0"),
    ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"seed": 1 << 70}, "seed", "less than"),
    ({"stop": [""]}, "stop", "at least 1 character"),
    ({"stop": ["x"] * 17}, "stop", "at most 16"),
    ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
    ({"best_of": 1, "n": 2}, "best_of", "less than n"),
    ({"best_of": 2, "stream": True}, "best_of", "leave out stream"),
    ({"best_of": 100, "prompt": ["a", "b"]}, "n", "more than 128"),
    ({"suffix": "end"}, "suffix", "not supported"),
    ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than or equal to 0.01"),
    ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
    ({"min_tokens": 3}, "min_tokens", "more than the 2"),
    ({"logit_bias": {"5": -101}}, "logit_bias", "greater than or equal to -100"),
    ({"logit_bias": {"2048": 1}}, "logit_bias", "no token id in [0, 2048)"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is no token id"),
    ({"stream_options": {"include_usage": True}}, None, "stream_options: only allowed"),
    ({"guided_regex": "("}, "guided_regex", "unclosed group"),
    ({"guided_regex": "a" * 70_000}, "guided_regex", "at most 65536"),
    ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "guided_regex"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, None, "guided_regex and guided_choice"),
    ({"guided_grammar": "start: there"}, "guided_grammar", 'unknown name: "there"'),
    ({"guided_json": "{"}, "guided_json", "EOF"),
    (
        {"guided_json": {"type": "string", "minLength": 2, "maxLength": 1}},
        "guided_json",
        "minLength",
    ),
    ({"guided_json": {"unevaluatedItems": False}}, "guided_json", "unevaluatedItems"),
    ({"guided_json": {"$ref": "http://127.0.0.1/x"}}, "guided_json", "not present in a registry"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs", "does not know"),
]
BAD_CHATS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"messages": []}, "messages", "at least 1"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role", "'system'"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "required"),
    ({"tools": [{"type": "function"}]}, "tools", "required"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "no place"),
    ({"tool_choice": "required"}, None, "tool_choice: there are no tools"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema: needed"),
    ({"response_format": {"type": "yaml"}}, "response_format", "'json_object'"),
    ({"top_logprobs": 2}, None, "top_logprobs: only allowed"),
    ({"max_tokens": 2, "max_completion_tokens": 3}, None, "differs from max_completion_tokens"),
    ({"max_completion_tokens": 0, "max_tokens": None}, None, "greater than or equal to 1"),
    ({"messages": [{"role": "user", "content": "a " * 3000}]}, "prompt", "shorten the prompt"),
    ({"chat_template": "{{ 7*7 }}"}, "chat_template", "does not know the field"),
]


VLLMS = {
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "bad_words": [],
    "allowed_token_ids": None,
    "truncate_prompt_tokens": None,
}
"""Which its clients send although they ask for nothing."""
VLLMS_CHAT = {
    "add_generation_prompt": True,
    "continue_final_message": False,
    "add_special_tokens": False,
    "echo": False,
}


def post(server: Server, path: str, body: Any) -> httpx.Response:  # noqa: ANN401
    return httpx.post(f"{server.url}/v1/{path}", json=body)


def check(answer: httpx.Response, param: str | None, says: str) -> None:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]
    # A union's branches follow the field's name.
    assert param is None or (error["param"] + ".").startswith(param + ".")


@pytest.mark.parametrize(("change", "param", "says"), BAD_COMPLETIONS, ids=str)
def test_completions(kjv: Server, change: dict[str, Any], param: str | None, says: str) -> None:
    check(post(kjv, "completions", COMPLETION | change), param, says)


@pytest.mark.parametrize(("change", "param", "says"), BAD_CHATS, ids=lambda value: str(value)[:60])
def test_chats(kjv: Server, change: dict[str, Any], param: str | None, says: str) -> None:
    check(post(kjv, "chat/completions", CHAT | change), param, says)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b'"x"']
)
def test_bodies_that_are_no_object(kjv: Server, body: bytes) -> None:
    answer = httpx.post(f"{kjv.url}/v1/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_fields_that_change_nothing_are_welcome(kjv: Server) -> None:
    neutral = {
        "user": "me",
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "best_of": 1,
        "suffix": None,
        "max_completion_tokens": 2,
        "request_id": "7",
        "n": 1,
        "stop": None,
    }
    assert post(kjv, "completions", COMPLETION | neutral | VLLMS).status_code == 200
    neutral_chat = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "verbosity": "medium",
        "prompt_cache_retention": "24h",
    }
    answer = post(kjv, "chat/completions", CHAT | neutral_chat | VLLMS | VLLMS_CHAT)
    assert answer.status_code == 200


@pytest.mark.parametrize("field", [*VLLMS, *VLLMS_CHAT])
def test_what_would_change_the_answer_is_refused_by_name(kjv: Server, field: str) -> None:
    answer = post(kjv, "chat/completions", CHAT | {field: not (VLLMS | VLLMS_CHAT)[field] or [1]})
    check(answer, field, "")
    assert "remove it" not in answer.json()["error"]["message"], "it is a field that we know"


def test_another_model_is_not_found(kjv: Server) -> None:
    answer = post(kjv, "completions", COMPLETION | {"model": "gpt-5"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_paths_and_methods(kjv: Server) -> None:
    embeddings = post(kjv, "embeddings", {"model": "model", "input": "Hail"})
    assert embeddings.status_code == 400
    assert "has no embeddings" in embeddings.json()["error"]["message"]
    for path, method, allowed in (
        ("/v1/completions", "GET", {"POST"}),
        ("/v1/embeddings", "GET", {"POST"}),
        ("/v1/models", "DELETE", {"GET", "HEAD"}),
        ("/v2/models/model/infer", "OPTIONS", {"POST"}),
        ("/v2/models/model/infer", "GET", {"POST"}),
        ("/v2/models/model/versions/1/generate", "GET", {"POST"}),
        ("/v2/models/model", "POST", {"GET", "HEAD"}),
    ):
        answer = httpx.request(method, kjv.url + path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert "use " in answer.json()["error"]["message"]
    assert "/openapi.json tells" in kjv.get("/nowhere").json()["error"]["message"]
    assert len(kjv.get("/" + "x" * 9000).text) < 1000
    assert httpx.head(f"{kjv.url}/health/ready").status_code == 200


def test_nobody_is_sent_to_the_host_that_he_named(kjv: Server) -> None:
    """CWE-601: from a proxy with TLS it would be another scheme, too."""
    answer = httpx.post(
        f"{kjv.url}/v1/completions/", json=COMPLETION, headers={"host": "evil.example"}
    )
    assert answer.status_code == 404
    assert "location" not in answer.headers


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_bodies_come_as_they_are(kjv: Server, encoding: str) -> None:
    content = gzip.compress(json.dumps(COMPLETION).encode()) + bytes(2_000_000)
    headers = {"content-encoding": encoding}
    answer = httpx.post(f"{kjv.url}/v1/completions", content=content, headers=headers)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert "send the body as it is" in answer.json()["error"]["message"]
    assert "connection" not in answer.headers, "or the answer is lost while the body still comes"
    plain = httpx.post(
        f"{kjv.url}/v1/completions", json=COMPLETION, headers={"content-encoding": "identity"}
    )
    assert plain.status_code == 200


def test_another_protocol_is_not_spoken(kjv: Server) -> None:
    """Whoever asks for one gets an answer in this one, and the log is not his to fill."""
    before = kjv.log.read_bytes()
    for protocol in ("websocket", "h2c"):
        headers = {"connection": "Upgrade", "upgrade": protocol}
        assert httpx.get(f"{kjv.url}/v1/models", headers=headers).status_code == 200
    assert kjv.log.read_bytes() == before


@pytest.mark.parametrize("declared", [True, False])
def test_large_bodies_are_cut_short(kjv: Server, declared: bool) -> None:
    piece = b"x" * (1 << 20)
    content: Any = piece * 17 if declared else (piece for _ in range(17))
    try:
        answer = httpx.post(f"{kjv.url}/v1/completions", content=content)
    except httpx.WriteError:
        return  # the server had answered and closed before all was sent
    assert answer.status_code == 413
    assert "16777216 bytes" in answer.json()["error"]["message"]


def test_huge_headers_are_refused(kjv: Server) -> None:
    try:
        answer = httpx.get(f"{kjv.url}/v1/models", headers={"x-long": "x" * 3_000_000})
    except httpx.TransportError:
        pass  # the server had answered and closed before all was sent
    else:
        assert answer.status_code == 431
        assert answer.json()["error"]["message"].startswith("this is no HTTP request: ")
    assert kjv.get("/health/live").status_code == 200


def test_the_server_is_as_before(kjv: Server) -> None:
    assert kjv.get("/health/ready").json() == {"status": "ok"}
    assert kjv.empty()
