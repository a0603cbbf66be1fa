"""The command line of `pitcrew-serve`: names, kinds and defaults of its options.

Only what one word says is checked here. What the options mean together is told in `options`.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pitcrew_builder import __version__
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.errors import InvalidOption

KEYS_VARIABLE = "PITCREW_API_KEYS"
"""Environment variable with API keys, one a line."""
LEADER, GROUP_SIZE, INDEX = "LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"
"""What LeaderWorkerSet tells the pods of a group."""
TERMINATION_LOG = Path("/dev/termination-log")
_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


class _Parser(argparse.ArgumentParser):
    """A wrong option is a start-up fault like any other: Kubernetes is told of it."""

    def error(self, message: str) -> NoReturn:
        raise InvalidOption(f"{message}; see pitcrew-serve --help")


class _Group:
    """Options with a heading of their own; those of one kind are alike but for name and meaning."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self.add = parser.add_argument_group(title).add_argument

    def count(self, name: str, meaning: str, default: int | None = None) -> None:
        """A number from 1 on."""
        self._one(name, positive, "N", meaning, default)

    def port(self, name: str, meaning: str, default: int | None = None) -> None:
        """A TCP port."""
        self._one(name, _port, "N", meaning, default)

    def seconds(self, name: str, meaning: str, default: float) -> None:
        """A time, or none."""
        self._one(name, _seconds, "S", meaning, default)

    def some_seconds(self, name: str, meaning: str, default: float) -> None:
        """A time that is not none."""
        self._one(name, _some_seconds, "S", meaning, default)

    def size(self, name: str, meaning: str, default: int | None = None) -> None:
        """Bytes, which `meaning` tells the default of."""
        self.add(name, type=_size, default=default, metavar="BYTES", help=meaning)

    def path(self, name: str, meaning: str, kind: str = "FILE", required: bool = False) -> None:
        """Of a file, or of a directory where `kind` is DIR."""
        self.add(name, type=Path, required=required, metavar=kind, help=meaning)

    def _one(
        self,
        name: str,
        read: Callable[[str], float],
        kind: str,
        meaning: str,
        default: float | None,
    ) -> None:
        told = "" if default is None else " (default: %(default)s)"
        self.add(name, type=read, default=default, metavar=kind, help=meaning + told)


def parser() -> argparse.ArgumentParser:
    """The parser, which raises `InvalidOption`."""
    found = _Parser(
        prog="pitcrew-serve", description="Serve an engine over an OpenAI-compatible HTTP API."
    )
    found.add_argument("--version", action="version", version=f"pitcrew {__version__}")
    _add_engine(_Group(found, "the engine"))
    _add_clients(_Group(found, "its clients"))
    _add_batches(_Group(found, "batches and memory"))
    _add_guesses(_Group(found, "speculative decoding"))
    _add_adapters(_Group(found, "LoRA adapters"))
    _add_ranks(_Group(found, "ranks"))
    _add_process(_Group(found, "the process"))
    return found


def _add_engine(group: _Group) -> None:
    group.path("--engine", "directory with manifest.json", "DIR", required=True)
    group.add("--served-model-name", metavar="NAME", help="default: the engine's model")
    group.count("--threads", "default: the CPUs of the container")


def _add_clients(group: _Group) -> None:
    group.add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    group.port("--port", "TCP port", 8000)
    group.port("--grpc-port", "TCP port of KServe's protocol over gRPC (default: not served)")
    group.path(
        "--api-key-file",
        f"one key a line; {KEYS_VARIABLE} may hold keys too. With any, all but health, metrics and "
        "version asks for one",
    )
    group.size("--max-body-bytes", "larger request bodies get 413 (default: 16Mi)", 16 << 20)
    group.seconds(
        "--client-seconds",
        "how long a client may take for the headers of a request, for its body (and one more for "
        "each 16 KiB of it), and to read on",
        30.0,
    )


def _add_batches(group: _Group) -> None:
    group.size(
        "--kv-memory",
        "KV pool, such as 512Mi (default: 0.8 of what is free, at most what a full batch can use)",
    )
    group.count("--max-batch-size", "default: the engine's")
    group.count(
        "--max-step-tokens",
        "new tokens in one step, the longest prompt chunk (default: 512 beside a full batch)",
    )
    group.count("--max-waiting", "requests that may wait before 429", 256)
    group.add(
        "--policy",
        choices=[policy.value for policy in Policy],
        default=Policy.SHORTEST_FIRST.value,
        help="order of admission (default: %(default)s)",
    )
    group.add(
        "--prefix-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep KV pages for prompts that begin alike (default: on)",
    )


def _add_guesses(group: _Group) -> None:
    group.add(
        "--speculative",
        choices=["ngram", "draft"],
        help="guess tokens and check many at a time: from the text itself, or by a smaller engine "
        "(default: off)",
    )
    group.count("--speculative-tokens", "guesses for a sequence in one step", 4)
    group.count("--ngram-max", "tokens of the longest ending that is looked up", 4)
    group.path(
        "--draft-engine", "of the smaller engine, with the same tokenizer and KV page size", "DIR"
    )


def _add_adapters(group: _Group) -> None:
    group.add(
        "--lora-modules",
        type=_lora_module,
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="LoRA adapters to serve under names of their own",
    )
    group.add(
        "--enable-runtime-lora",
        action="store_true",
        help="let clients load and unload adapters (POST /v1/load_lora_adapter)",
    )
    group.path("--lora-root", "they may be loaded from under it alone", "DIR")
    group.count("--max-loras", "in one step (default: the engine's)")
    group.count("--max-cpu-loras", "adapters in memory", 16)


def _add_ranks(group: _Group) -> None:
    group.count("--world-size", "ranks of this replica", 1)
    group.count(
        "--ranks-per-pod",
        f"of a group of pods ({LEADER}, {GROUP_SIZE}, {INDEX}; default: all in this one)",
    )
    group.port("--rank-port", "TCP port on which the pods of a group call each other", 8002)
    group.add("--rank-host", default="", metavar="ADDRESS", help="to call from and listen on")
    group.path("--rank-token-file", "a secret that they must share")
    group.path(
        "--rank-tls-dir",
        "tls.crt, tls.key and ca.crt: what ranks of several pods exchange goes over TLS, and both "
        "ends need a certificate of that authority",
        "DIR",
    )
    group.seconds("--rank-join-seconds", "how long they wait for each other", 600.0)


def _add_process(group: _Group) -> None:
    group.seconds(
        "--withdraw-seconds",
        "on SIGTERM, how long requests are still taken while readiness is red already, for load "
        "balancers to notice",
        0.0,
    )
    group.seconds("--drain-seconds", "after that, how long running requests may take", 25.0)
    group.some_seconds("--wedge-seconds", "a longer step turns liveness red", 120.0)
    group.path(
        "--termination-log",
        f"where a start-up fault is told (default: {TERMINATION_LOG}, where it exists)",
    )
    group.add("--log-level", choices=["debug", "info", "warning", "error"], default="info")


def positive(text: str) -> int:
    """A number from 1 on, of the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _lora_module(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, Path(path)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a TCP port")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def _some_seconds(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]+)(|Ki|Mi|Gi|Ti)", text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1073741824 or 1Gi")
    return int(match[1]) * _UNITS[match[2]]
