"""What is told of each endpoint in `/openapi.json`."""

from pitcrew_runtime.kserve.http_wire import GenerateBody, InferBody
from pitcrew_runtime.server.lora import LoadBody, UnloadBody
from pitcrew_runtime.server.openapi import Operation
from pitcrew_runtime.server.schemas import ChatBody, CompletionBody
from pitcrew_runtime.server.tokens import DetokenizeBody, TokenizeBody

_TEXT = "text/plain"
_MODEL = "/v2/models/{model}"

OPERATIONS = (
    Operation("GET", "/v1/models", "The served model and its adapters."),
    Operation("GET", "/v1/models/{model}", "One of them."),
    Operation("POST", "/v1/completions", "Continue a text.", CompletionBody, streams=True),
    Operation("POST", "/v1/chat/completions", "Continue a chat.", ChatBody, streams=True),
    Operation("POST", "/v1/load_lora_adapter", "Serve an adapter.", LoadBody, media=_TEXT),
    Operation("POST", "/v1/unload_lora_adapter", "Serve it no longer.", UnloadBody, media=_TEXT),
    Operation("POST", "/tokenize", "The token ids of a text or a chat.", TokenizeBody),
    Operation("POST", "/detokenize", "The text of token ids.", DetokenizeBody),
    Operation("GET", "/health/live", "Whether the process should go on.", is_open=True),
    Operation("GET", "/health/ready", "Whether it takes requests.", is_open=True),
    Operation("GET", "/health/proof", "A few tokens, computed now.", is_open=True),
    Operation("GET", "/metrics", "For Prometheus.", media=_TEXT, is_open=True),
    Operation("GET", "/version", "What runs here.", is_open=True),
    Operation("GET", "/v2", "Who answers, by KServe's protocol."),
    Operation(
        "GET", "/v2/health/live", "Whether the process should go on.", media=None, is_open=True
    ),
    Operation("GET", "/v2/health/ready", "Whether it takes requests.", media=None, is_open=True),
    Operation("POST", "/v2/repository/index", "The models that there are."),
    Operation("GET", _MODEL, "A model's inputs and outputs."),
    Operation("GET", f"{_MODEL}/ready", "Whether a model takes requests.", media=None),
    Operation("GET", f"{_MODEL}/config", "A model's configuration, as Triton tells it."),
    Operation("POST", f"{_MODEL}/infer", "Tensors in, tensors out.", InferBody),
    Operation("POST", f"{_MODEL}/generate", "Text in, text out.", GenerateBody),
    Operation(
        "POST", f"{_MODEL}/generate_stream", "Text in, events out.", GenerateBody, streams=True
    ),
)
