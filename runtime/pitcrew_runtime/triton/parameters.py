"""What a model's parameters say: the options of `pitcrew-serve`, by their names without dashes.

They are kept in `config.pbtxt`, so whoever runs the server may change them there.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pitcrew_runtime.arguments import parser
from pitcrew_runtime.errors import InvalidOption
from pitcrew_runtime.options import settings_of
from pitcrew_runtime.triton.configuration import ENGINE, ON_FAULT
from pitcrew_runtime.triton.guard import OnFault, chosen

if TYPE_CHECKING:
    from pitcrew_runtime.serve import Settings

OF_TRITON = frozenset(
    {
        "api-key-file",
        "client-seconds",
        "enable-runtime-lora",
        "grpc-port",
        "host",
        "log-level",
        "lora-root",
        "max-body-bytes",
        "port",
        "served-model-name",
        "termination-log",
        "version",
    }
)
"""Options whose place Triton takes: it has the ports, the keys, the log and the model's name."""
_OF_THE_BACKEND = frozenset({"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"})
"""Parameters that Triton's Python backend reads itself."""


def settings(name: str, root: Path, parameters: Mapping[str, str]) -> "Settings":
    """How to serve the engine of a model; paths are relative to `root`. Raises `InvalidOption`."""
    on_fault(parameters)
    others = {*_OF_THE_BACKEND, ON_FAULT}
    own = {key: value for key, value in parameters.items() if key not in others}
    for key in own:
        if key in OF_TRITON:
            raise InvalidOption(f"{key}: Triton has this in its own hands; remove it")
    if ENGINE not in own:
        raise InvalidOption(f"{ENGINE}: the parameter is missing; name the engine's directory")
    own[ENGINE] = str(root / own[ENGINE])
    words = [word for key, value in own.items() for word in _words(key, value)]
    options = parser().parse_args([*words, "--served-model-name", name], argparse.Namespace())
    return settings_of(options)


def on_fault(parameters: Mapping[str, str]) -> OnFault:
    """What is done about an engine that cannot go on. Raises `InvalidOption`."""
    return chosen(parameters.get(ON_FAULT, OnFault.TELL))


def _words(key: str, value: str) -> list[str]:
    """A parameter as words of the command line; `true` and `false` are flags."""
    flags = {"true": [f"--{key}"], "false": [f"--no-{key}"]}
    return flags.get(value) or [f"--{key}={value}"]
