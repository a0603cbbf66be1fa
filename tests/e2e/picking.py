"""The question that a gateway asks an endpoint picker, in the bytes of Envoy's ext_proc protocol.

A request's headers, then its body; the picker answers with a header that names the endpoint. Only the
few fields of `envoy.service.ext_proc.v3` that this takes are written here.
"""

import json
import re
from collections.abc import Iterator

import grpc

_METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_ENDPOINT = re.compile(rb"x-gateway-destination-endpoint.{1,6}?(\d+\.\d+\.\d+\.\d+:\d+)", re.DOTALL)
_REQUEST_HEADERS, _REQUEST_BODY = 2, 4
"""Numbers of a ProcessingRequest's fields."""


def picked(address: str, model: str) -> str:
    """The endpoint, `IP:port`, that the picker at `address` chooses for a completion."""
    body = json.dumps({"model": model, "prompt": "And the king said", "max_tokens": 1}).encode()
    with grpc.insecure_channel(address) as channel:
        process = channel.stream_stream(_METHOD, _same, _same)
        for answer in process(_question(body), timeout=10):
            if found := _ENDPOINT.search(answer):
                return found[1].decode()
    raise AssertionError("the picker named no endpoint")


def _same(message: bytes) -> bytes:
    return message


def _question(body: bytes) -> Iterator[bytes]:
    given = {":method": "POST", ":path": "/v1/completions", "content-type": "application/json"}
    headers = b"".join(_header(name, value) for name, value in given.items())
    yield _field(_REQUEST_HEADERS, _field(1, headers))
    yield _field(_REQUEST_BODY, _field(1, body) + _TRUE)


_TRUE = bytes([2 << 3, 1])
"""end_of_stream of an HttpBody."""


def _header(name: str, value: str) -> bytes:
    """An entry of a HeaderMap: key and raw value."""
    return _field(1, _field(1, name.encode()) + _field(3, value.encode()))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf's wire format."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
