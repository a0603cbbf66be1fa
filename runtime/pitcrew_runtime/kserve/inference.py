"""One inference, whatever wire it came over: tensors and parameters in, tensors out.

Inputs are those of Triton's vLLM backend: `text_input`, `stream`, `sampling_parameters` (JSON) and
`exclude_input_in_output`, and one `return_…` flag for each further output. Sampling parameters may
come as the request's parameters too. Their names are vLLM's, and so are ours.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.frontend import Terms
from pitcrew_runtime.kserve.tensors import BYTES, Tensor
from pitcrew_runtime.server import problems
from pitcrew_runtime.server.choice import Delta
from pitcrew_runtime.server.formats import Usage
from pitcrew_runtime.server.keys import tenant_name
from pitcrew_runtime.server.schemas import CompletionBody

TEXT_INPUT, TEXT_OUTPUT = "text_input", "text_output"
INPUTS: tuple[tuple[str, str], ...] = (
    (TEXT_INPUT, BYTES),
    ("stream", "BOOL"),
    ("sampling_parameters", BYTES),
    ("exclude_input_in_output", "BOOL"),
    ("return_finish_reason", "BOOL"),
    ("return_token_ids", "BOOL"),
    ("return_num_input_tokens", "BOOL"),
    ("return_num_cached_tokens", "BOOL"),
    ("return_num_output_tokens", "BOOL"),
)
OUTPUTS: tuple[tuple[str, str], ...] = (
    (TEXT_OUTPUT, BYTES),
    ("finish_reason", BYTES),
    ("token_ids", BYTES),
    ("num_input_tokens", "UINT32"),
    ("num_cached_tokens", "UINT32"),
    ("num_output_tokens", "UINT32"),
)
ADAPTER = "lora_name"
"""The sampling parameter of Triton's vLLM backend that names an adapter of the model."""
_OF_THE_WIRE = frozenset(
    {"binary_data_output", "triton_enable_empty_final_response", "stream", "priority", "timeout"}
)
"""Parameters of a request that say something of it, not of the sampling."""
Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Inference:
    """A validated inference."""

    body: CompletionBody
    terms: Terms
    stream: bool
    outputs: frozenset[str]
    """Names of the tensors that are asked for."""
    shape: tuple[int, ...]
    """Of `text_input`: outputs have its leading dimensions."""
    final_response: bool
    """An empty response follows the last one of a stream."""

    @property
    def choices(self) -> int:
        """Texts for each prompt."""
        return self.body.choices


def parse(
    model: str,
    tensors: Sequence[Tensor],
    parameters: Parameters,
    wanted: Sequence[str],
    key: int = 0,
) -> Inference:
    """Make sense of a request; raises `InvalidRequest`.

    `wanted` are the outputs it names, if any; `key` is the number of its API key.
    """
    given = _by_name(tensors)
    if TEXT_INPUT not in given:
        raise InvalidRequest(f"{TEXT_INPUT}: the tensor is missing", param=TEXT_INPUT)
    texts = given[TEXT_INPUT]
    stream = bool(_flag(given, "stream", parameters.get("stream", False)))
    if stream and len(texts.values) != 1:
        raise InvalidRequest(f"{TEXT_INPUT}: one text at a time can be streamed", param=TEXT_INPUT)
    echo = not _flag(given, "exclude_input_in_output", stream)
    if echo and stream:
        raise InvalidRequest(
            "exclude_input_in_output: must be true for a stream", param="exclude_input_in_output"
        )
    body = _body(model, texts, echo, _sampling(given), parameters)
    if stream and body.candidates > body.choices:
        raise InvalidRequest(
            "best_of: which are best is known at the end; leave out stream", param="best_of"
        )
    return Inference(
        body=body,
        terms=_terms(body, parameters, key),
        stream=stream,
        outputs=_outputs(given, wanted),
        shape=texts.shape,
        final_response=bool(parameters.get("triton_enable_empty_final_response", False)),
    )


def outputs(asked: Inference, deltas: Sequence[Delta], usage: Usage) -> list[Tensor]:
    """The tensors of one response: a delta for each choice, and what was used so far."""
    columns: dict[str, Sequence[Any]] = {
        TEXT_OUTPUT: [delta.text for delta in deltas],
        "finish_reason": [delta.finish or "" for delta in deltas],
        "token_ids": [json.dumps(list(delta.token_ids)) for delta in deltas],
        "num_input_tokens": [usage.prompt] * len(deltas),
        "num_cached_tokens": [usage.cached] * len(deltas),
        "num_output_tokens": [usage.completion] * len(deltas),
    }
    shape = (*asked.shape[:-1], asked.choices) if len(asked.shape) > 1 else (len(deltas),)
    return [
        Tensor(name, datatype, shape, columns[name])
        for name, datatype in OUTPUTS
        if name in asked.outputs
    ]


def _by_name(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    known = dict(INPUTS)
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name not in known:
            raise InvalidRequest(
                f"{tensor.name[:64]!r} is no input of this model; it has {', '.join(known)}"
            )
        if tensor.datatype != known[tensor.name]:
            raise InvalidRequest(
                f"{tensor.name}: the datatype is {tensor.datatype}, {known[tensor.name]} is needed",
                param=tensor.name,
            )
        if not tensor.values:
            raise InvalidRequest(f"{tensor.name}: the tensor is empty", param=tensor.name)
        if tensor.name != TEXT_INPUT and len(set(tensor.values)) > 1:
            raise InvalidRequest(
                f"{tensor.name}: one value holds for all texts of a request; send texts that need "
                "others in requests of their own",
                param=tensor.name,
            )
        if tensor.name in found:
            raise InvalidRequest(f"{tensor.name}: given twice; send it once", param=tensor.name)
        found[tensor.name] = tensor
    return found


def _flag(given: Mapping[str, Tensor], name: str, default: object) -> object:
    return given[name].values[0] if name in given else default


def _sampling(given: Mapping[str, Tensor]) -> dict[str, Any]:
    if "sampling_parameters" not in given:
        return {}
    try:
        found = from_json(given["sampling_parameters"].values[0], allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(
            f"sampling_parameters: not JSON: {error}", param="sampling_parameters"
        ) from None
    if not isinstance(found, dict):
        raise InvalidRequest("sampling_parameters: not a JSON object", param="sampling_parameters")
    return found


def _body(
    model: str, texts: Tensor, echo: bool, sampling: Parameters, parameters: Parameters
) -> CompletionBody:
    of_request = {key: value for key, value in parameters.items() if key not in _OF_THE_WIRE}
    sampling = {**sampling, **of_request}
    model = sampling.pop(ADAPTER, model)
    for name in ("model", "prompt", "echo", "stream", "stream_options", "logprobs"):
        if name in sampling:
            raise InvalidRequest(f"{name}: no sampling parameter; remove it", param=name)
    try:
        # Lax: Triton's clients write numbers as strings.
        return CompletionBody.model_validate(
            {"model": model, "prompt": list(texts.values), "echo": echo, **sampling}, strict=False
        )
    except ValidationError as error:
        raise problems.invalid_body(error) from None


def _terms(body: CompletionBody, parameters: Parameters, key: int) -> Terms:
    """A request's own parameters are Triton's: priority 0 is the default, and microseconds.

    Those among the sampling parameters are the body's.
    """
    priority, timeout = parameters.get("priority", 0), parameters.get("timeout", 0)
    for name, value in (("priority", priority), ("timeout", timeout)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
            raise InvalidRequest(f"{name}: a number from 0 on is needed", param=name)
    return Terms(
        tenant_name(key, body.cache_salt),
        priority or body.priority,
        timeout / 1e6 if timeout else body.timeout,
    )


def _outputs(given: Mapping[str, Tensor], wanted: Sequence[str]) -> frozenset[str]:
    known = {name for name, _ in OUTPUTS}
    for name in wanted:
        if name not in known:
            raise InvalidRequest(
                f"{name[:64]!r} is no output of this model; it has {sorted(known)}"
            )
    flagged = {name for name in known if _flag(given, f"return_{name}", False)}
    return frozenset({*(wanted or (TEXT_OUTPUT,)), *flagged})
