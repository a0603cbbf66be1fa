"""Triton's model configuration, `config.pbtxt`, as text."""

import json
from collections.abc import Iterable, Mapping

from pitcrew_runtime.kserve.inference import INPUTS, OUTPUTS, TEXT_INPUT
from pitcrew_runtime.kserve.tensors import BYTES

MAX_BATCH_SIZE = 128
"""Texts that one request may hold. How many requests are computed together is the engine's to say."""
ENGINE = "engine"
"""Name of the parameter that says where the engine lies."""
ON_FAULT = "on-fault"
"""Name of the parameter that says what is done about an engine that cannot go on."""


def configuration(
    name: str, parameters: Mapping[str, str], max_batch_size: int = MAX_BATCH_SIZE
) -> str:
    """The configuration of a decoupled model of the Python backend.

    One instance: all requests of a server meet in one scheduler. No dynamic batching: a request
    joins the running batch as it comes, and would only wait in a queue of Triton's.
    """
    return "\n".join(
        (
            f"name: {_text(name)}",
            'backend: "python"',
            f"max_batch_size: {max_batch_size}",
            "model_transaction_policy { decoupled: true }",
            "instance_group [ { count: 1 kind: KIND_CPU } ]",
            *(f"input [ {_input(*one)} ]" for one in INPUTS),
            *(f"output [ {_tensor(*one, -1)} ]" for one in OUTPUTS),
            *_parameters(parameters),
            "",
        )
    )


def _input(name: str, datatype: str) -> str:
    return _tensor(name, datatype, 1, "" if name == TEXT_INPUT else " optional: true")


def _tensor(name: str, datatype: str, size: int, more: str = "") -> str:
    kind = "STRING" if datatype == BYTES else datatype
    return f"{{ name: {_text(name)} data_type: TYPE_{kind} dims: [ {size} ]{more} }}"


def _parameters(parameters: Mapping[str, str]) -> Iterable[str]:
    for key, value in parameters.items():
        yield f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"


def _text(value: str) -> str:
    """A string of the text format: JSON's escapes are among its own, but for wide characters."""
    return json.dumps(value, ensure_ascii=False)
