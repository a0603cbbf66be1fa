"""Errors on the wire: one table of status codes, OpenAI's shape of body."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import Response

from pitcrew_runtime.errors import (
    AdapterConflict,
    BodyEncoded,
    BodyTooLarge,
    DeadlineExceeded,
    Draining,
    GenerationFailed,
    HeadersTooLarge,
    InvalidAdapter,
    InvalidRequest,
    ModelNotFound,
    NotEnabled,
    NotReady,
    QueueFull,
    RequestError,
    Unauthorized,
)

_FIELD = re.compile(r"(?!(str|int|list|float|bool)$)[a-z_]+|[0-9]+")
"""Parts of a fault's place that a client has written; the others name pydantic's branches."""

_NAMED = re.compile(r"([a-z_]+): ")
_MOST_FAULTS = 1000
"""That are looked through for the first one; only unknown fields are more."""


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    type: str
    code: str | None = None


_KINDS: Mapping[type[RequestError], _Kind] = {
    InvalidRequest: _Kind(400, "invalid_request_error"),
    InvalidAdapter: _Kind(400, "invalid_request_error", "invalid_lora_adapter"),
    Unauthorized: _Kind(401, "invalid_request_error", "invalid_api_key"),
    NotEnabled: _Kind(403, "invalid_request_error", "not_enabled"),
    ModelNotFound: _Kind(404, "invalid_request_error", "model_not_found"),
    DeadlineExceeded: _Kind(408, "timeout_error", "deadline_exceeded"),
    AdapterConflict: _Kind(409, "invalid_request_error", "lora_adapter_conflict"),
    BodyTooLarge: _Kind(413, "invalid_request_error", "body_too_large"),
    BodyEncoded: _Kind(415, "invalid_request_error", "body_encoded"),
    HeadersTooLarge: _Kind(431, "invalid_request_error", "headers_too_large"),
    QueueFull: _Kind(429, "rate_limit_error", "queue_full"),
    GenerationFailed: _Kind(500, "server_error", "generation_failed"),
    NotReady: _Kind(503, "server_error", "not_ready"),
    Draining: _Kind(503, "server_error", "draining"),
}


def body(error: RequestError) -> dict[str, object]:
    """OpenAI's error object."""
    kind = _KINDS[type(error)]
    return _object(str(error), kind.type, kind.code, error.param)


def response(error: RequestError, document: object = None) -> Response:
    """The answer to a refused request; `document` is its body where that is not OpenAI's."""
    kind = _KINDS[type(error)]
    return json_response(document or body(error), kind.status, dict(_headers(error)))


def _headers(error: RequestError) -> Iterator[tuple[str, str]]:
    """What HTTP has a header for: what would help."""
    match error:
        case QueueFull():
            yield "Retry-After", str(error.retry_after)
        case Draining() | NotReady():
            yield "Retry-After", "1"
        case Unauthorized():
            yield "WWW-Authenticate", "Bearer"
        case BodyEncoded():
            yield "Accept-Encoding", "identity"
        case DeadlineExceeded():
            # OpenAI's clients would ask twice more for what nobody waits for any more.
            yield "x-should-retry", "false"


def client_closed() -> Response:
    """What nobody will read."""
    return Response(status_code=499)


def plain(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error that is not about a request's contents: no such path, a fault of ours."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json_response(_object(message, kind, None, None), status, headers)


def invalid_body(error: ValidationError) -> InvalidRequest:
    """What is wrong with a body's first faulty field, in words."""
    if error.error_count() > _MOST_FAULTS:
        return InvalidRequest(
            f"the body has {error.error_count()} faults; /openapi.json tells which fields it may have"
        )
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {faults[0]['msg']}")
    fault = max((one for one in faults if one["loc"][:1] == faults[0]["loc"][:1]), key=_depth)
    param = ".".join(str(part) for part in fault["loc"] if _FIELD.fullmatch(str(part))) or None
    if fault["type"] == "extra_forbidden":
        return InvalidRequest(
            f"{param}: this server does not know the field; remove it", param=param
        )
    message = fault["msg"].removeprefix("Value error, ")
    if named := _NAMED.match(message):  # a rule about several fields names the one at fault
        param = f"{param}.{named[1]}" if param else named[1]
        message = message[named.end() :]
    return InvalidRequest(f"{param}: {message}" if param else message, param=param)


def _depth(fault: ErrorDetails) -> tuple[bool, int]:
    """A field of several types reports a fault for each: the right one is about the value, or lies
    deepest.
    """
    return not fault["type"].endswith("_type"), len(fault["loc"])


def json_response(
    document: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(document), status, headers, media_type="application/json")


def unavailable(reason: str) -> Response:
    """The answer to a probe that has to know why not."""
    return json_response({"status": "unavailable", "reason": reason}, 503)


def _object(message: str, kind: str, code: str | None, param: str | None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
