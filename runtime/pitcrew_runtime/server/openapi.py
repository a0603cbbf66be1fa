"""`/openapi.json`: the description of every endpoint, from the same models that check the bodies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pitcrew_builder import __version__

Json = dict[str, Any]

PATH = "/openapi.json"
_KEY = "key"


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint: what it is for, what it takes, and what it may answer beside errors."""

    method: str
    path: str
    summary: str
    body: type[BaseModel] | None = None
    answers: Sequence[int] = (200,)
    streams: bool = False
    media: str | None = "application/json"
    """Of a whole answer; None for one without a body."""
    is_open: bool = False
    """Needs no key."""

    @property
    def parameters(self) -> list[str]:
        """Names of the path's parameters."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


class Description:
    """Serves the description; it is written once."""

    def __init__(self, operations: Sequence[Operation], *, locked: bool) -> None:
        self._document = orjson.dumps(describe(operations, locked=locked))

    def routes(self) -> list[Route]:
        """The one endpoint."""
        return [Route(PATH, self.show, methods=["GET"])]

    async def show(self, http: HttpRequest) -> Response:
        """OpenAPI 3.1."""
        return Response(self._document, media_type="application/json")


def describe(operations: Sequence[Operation], *, locked: bool) -> Json:
    """The OpenAPI document; `locked`: what is not open asks for a key."""
    bodies = list(dict.fromkeys(one.body for one in operations if one.body is not None))
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Json] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pitcrew", "version": __version__},
        "paths": paths,
        "security": [{_KEY: []}] if locked else [],
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {_KEY: {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(one: Operation) -> Json:
    found: Json = {"summary": one.summary, "responses": _responses(one)}
    if one.is_open:
        found["security"] = []
    if one.parameters:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in one.parameters
        ]
    if one.body is not None:
        reference = {"$ref": f"#/components/schemas/{one.body.__name__}"}
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference}},
        }
    return found


def _responses(one: Operation) -> Mapping[str, Json]:
    content: Json = {} if one.media is None else {one.media: {}}
    if one.streams:
        content["text/event-stream"] = {}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        **{str(status): {"description": "", "content": content} for status in one.answers},
        "4XX": {"description": "The request is refused, and why.", "content": error},
        "503": {"description": "Not ready, or draining: retry.", "content": error},
    }


_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null"]},
                    },
                },
            ]
        }
    },
}
"""KServe's protocol has a text where OpenAI's API has an object."""
