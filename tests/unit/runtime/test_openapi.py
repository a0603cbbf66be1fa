"""The description tells what the endpoints take and give."""

import orjson

from pitcrew_runtime.operations import OPERATIONS
from pitcrew_runtime.server.openapi import describe


def test_it_can_be_written_and_names_keys_and_media() -> None:
    document = orjson.loads(orjson.dumps(describe(OPERATIONS, locked=True)))
    paths = document["paths"]
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert paths["/metrics"]["get"]["security"] == []
    assert "security" not in paths["/v1/completions"]["post"]
    assert list(paths["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    assert paths["/v2/health/ready"]["get"]["responses"]["200"]["content"] == {}
    streamed = paths["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert list(streamed) == ["application/json", "text/event-stream"]
    assert describe(OPERATIONS, locked=False)["security"] == []
