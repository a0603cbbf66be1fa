"""The bodies know what clients send."""

from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam
from pydantic import BaseModel

from pitcrew_runtime.server.schemas import ChatBody, CompletionBody, StreamOptions


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (chats.CompletionCreateParamsStreaming, ChatBody),
        (completions.CompletionCreateParamsStreaming, CompletionBody),
        (ChatCompletionStreamOptionsParam, StreamOptions),
    ],
)
def test_every_field_of_openais_client_is_known(sent: Any, body: type[BaseModel]) -> None:  # noqa: ANN401
    assert set(get_type_hints(sent)) <= set(body.model_fields)
