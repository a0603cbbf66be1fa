"""The options of `pitcrew-serve`, and what they say: all that may be chosen about serving an engine.

Whoever serves an engine by another way in, such as Triton, names its choices alike.
"""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pitcrew_builder import __version__
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.errors import InvalidOption

if TYPE_CHECKING:
    from pitcrew_runtime.drafting import Speculation
    from pitcrew_runtime.ranks.pods import Pods
    from pitcrew_runtime.serve import Settings

KEYS_VARIABLE = "PITCREW_API_KEYS"
"""Environment variable with API keys, one a line."""
_LEADER, _GROUP_SIZE, _INDEX = "LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"
"""What LeaderWorkerSet tells the pods of a group."""
TERMINATION_LOG = Path("/dev/termination-log")
_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def settings_of(options: argparse.Namespace) -> "Settings":
    """What parsed options ask for. Raises `InvalidOption`."""
    from pitcrew_runtime.adapters.startup import LoraSettings
    from pitcrew_runtime.assembly import Tuning
    from pitcrew_runtime.serve import Settings

    return Settings(
        engine=options.engine,
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        model_name=options.served_model_name,
        world_size=options.world_size,
        tuning=Tuning(
            max_batch_size=options.max_batch_size,
            max_step_tokens=options.max_step_tokens,
            max_waiting=options.max_waiting,
            policy=Policy(options.policy),
            kv_memory=options.kv_memory,
            threads=options.threads,
            prefix_cache=options.prefix_cache,
            speculation=_speculation(options),
            max_loras=options.max_loras,
            pods=_pods(options, os.environ),
        ),
        withdraw_seconds=options.withdraw_seconds,
        drain_seconds=options.drain_seconds,
        wedge_seconds=options.wedge_seconds,
        max_body_bytes=options.max_body_bytes,
        api_keys=_read_keys(options.api_key_file) | _keys_of(os.environ.get(KEYS_VARIABLE, "")),
        lora=LoraSettings(
            modules=tuple(options.lora_modules),
            root=_lora_root(options),
            max_in_memory=options.max_cpu_loras,
        ),
    )


def _pods(options: argparse.Namespace, env: Mapping[str, str]) -> "Pods | None":
    """The group that LeaderWorkerSet tells of; None where all ranks are in this pod."""
    from pitcrew_runtime.ranks.pods import Pods

    count, index = (
        _number_of(env, name, default) for name, default in ((_GROUP_SIZE, 1), (_INDEX, 0))
    )
    each, world = options.ranks_per_pod, options.world_size
    if each is None and count > 1:
        raise InvalidOption(
            f"{_GROUP_SIZE} is {count}: give --ranks-per-pod, so that the group serves one engine"
        )
    if each is not None and each * count != world:
        raise InvalidOption(
            f"--ranks-per-pod {each}: {count} pods ({_GROUP_SIZE}) of {each} are {each * count} "
            f"ranks, but --world-size is {world}; make them equal"
        )
    if count == 1:
        return None
    if not 0 <= index < count or not (leader := env.get(_LEADER, "")):
        raise InvalidOption(
            f"{_INDEX} is {index} and {_LEADER} {env.get(_LEADER)!r}: a group of {count} pods needs "
            f"an index from 0 to {count - 1} and the leader's address"
        )
    return Pods(
        index=index,
        count=count,
        ranks_each=each,
        leader=leader,
        port=options.rank_port,
        host=options.rank_host,
        token=_read_token(options.rank_token_file),
        join_seconds=options.rank_join_seconds,
    )


def _number_of(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal():
        raise InvalidOption(f"{name} is {text!r}: LeaderWorkerSet writes a number there")
    return int(text)


def _read_token(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise InvalidOption(f"--rank-token-file {path}: {error.strerror}") from error
    if not token:
        raise InvalidOption(f"--rank-token-file {path}: is empty; write a secret")
    return token


def _speculation(options: argparse.Namespace) -> "Speculation | None":
    from pitcrew_runtime.drafting import Method, Speculation

    if options.speculative is None:
        if options.draft_engine is not None:
            raise InvalidOption("--draft-engine: add --speculative draft, or leave it out")
        return None
    return Speculation(
        Method(options.speculative),
        options.speculative_tokens,
        options.ngram_max,
        options.draft_engine,
    )


def _lora_root(options: argparse.Namespace) -> Path | None:
    root: Path | None = options.lora_root
    if not options.enable_runtime_lora:
        return None
    if root is None or not root.is_dir():
        raise InvalidOption(
            f"--lora-root {root}: --enable-runtime-lora reads adapters under it alone; give a "
            f"directory that is there"
        )
    return root


class _Parser(argparse.ArgumentParser):
    """A wrong option is a start-up fault like any other: Kubernetes is told of it."""

    def error(self, message: str) -> NoReturn:
        raise InvalidOption(f"{message}; see pitcrew-serve --help")


def parser() -> argparse.ArgumentParser:
    """The parser, which raises `InvalidOption`."""
    found = _Parser(
        prog="pitcrew-serve", description="Serve an engine over an OpenAI-compatible HTTP API."
    )
    add = found.add_argument
    add("--version", action="version", version=f"pitcrew {__version__}")
    add("--engine", type=Path, required=True, metavar="DIR", help="directory with manifest.json")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_port, default=8000, help="TCP port (default: %(default)s)")
    add(
        "--grpc-port",
        type=_port,
        metavar="N",
        help="TCP port of KServe's protocol over gRPC (default: not served)",
    )
    add("--served-model-name", metavar="NAME", help="default: the engine's model")
    add("--world-size", type=positive, default=1, metavar="N", help="ranks of this replica")
    add(
        "--ranks-per-pod",
        type=positive,
        metavar="N",
        help=f"of a group of pods ({_LEADER}, {_GROUP_SIZE}, {_INDEX}; default: all in this one)",
    )
    add(
        "--rank-port",
        type=_port,
        default=8002,
        metavar="N",
        help="TCP port on which the pods of a group call each other (default: %(default)s)",
    )
    add("--rank-host", default="", metavar="ADDRESS", help="to call from and listen on for them")
    add("--rank-token-file", type=Path, metavar="FILE", help="a secret that they must share")
    add(
        "--rank-join-seconds",
        type=_seconds,
        default=600.0,
        metavar="S",
        help="how long they wait for each other (default: %(default)s)",
    )
    add(
        "--kv-memory",
        type=_size,
        metavar="BYTES",
        help="KV pool, such as 512Mi (default: 0.8 of "
        "what is free, at most what a full batch can use)",
    )
    add("--max-batch-size", type=positive, metavar="N", help="default: the engine's")
    add(
        "--max-step-tokens",
        type=positive,
        default=512,
        metavar="N",
        help="new tokens in one step, the longest prompt chunk (default: %(default)s)",
    )
    add(
        "--max-waiting",
        type=positive,
        default=256,
        metavar="N",
        help="requests that may wait before 429 (default: %(default)s)",
    )
    add(
        "--policy",
        choices=[policy.value for policy in Policy],
        default=Policy.SHORTEST_FIRST.value,
        help="order of admission (default: %(default)s)",
    )
    add(
        "--prefix-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep KV pages for prompts that begin alike (default: on)",
    )
    add(
        "--speculative",
        choices=["ngram", "draft"],
        help="guess tokens and check many at a time: from the text itself, or by a smaller engine "
        "(default: off)",
    )
    add(
        "--speculative-tokens",
        type=positive,
        default=4,
        metavar="N",
        help="guesses for a sequence in one step (default: %(default)s)",
    )
    add(
        "--ngram-max",
        type=positive,
        default=4,
        metavar="N",
        help="tokens of the longest ending that is looked up (default: %(default)s)",
    )
    add(
        "--draft-engine",
        type=Path,
        metavar="DIR",
        help="of the smaller engine, with the same tokenizer and KV page size",
    )
    add(
        "--lora-modules",
        type=_lora_module,
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="LoRA adapters to serve under names of their own",
    )
    add(
        "--enable-runtime-lora",
        action="store_true",
        help="let clients load and unload adapters (POST /v1/load_lora_adapter)",
    )
    add("--lora-root", type=Path, metavar="DIR", help="they may be loaded from under it alone")
    add("--max-loras", type=positive, metavar="N", help="in one step (default: the engine's)")
    add(
        "--max-cpu-loras",
        type=positive,
        default=16,
        metavar="N",
        help="adapters in memory (default: %(default)s)",
    )
    add("--threads", type=positive, metavar="N", help="default: the CPUs of the container")
    add(
        "--withdraw-seconds",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="on SIGTERM, how long requests are still taken while readiness is red already, for "
        "load balancers to notice (default: %(default)s)",
    )
    add(
        "--drain-seconds",
        type=_seconds,
        default=25.0,
        metavar="S",
        help="after that, how long running requests may take (default: %(default)s)",
    )
    add(
        "--wedge-seconds",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="a longer step turns liveness red (default: %(default)s)",
    )
    add(
        "--max-body-bytes",
        type=_size,
        default=16 << 20,
        metavar="BYTES",
        help="larger request bodies get 413 (default: 16Mi)",
    )
    add(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"one key a line; {KEYS_VARIABLE} may hold keys too. With any, all but health, metrics "
        "and version asks for one",
    )
    add(
        "--termination-log",
        type=Path,
        metavar="FILE",
        help=f"where a start-up fault is told (default: {TERMINATION_LOG}, where it exists)",
    )
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return found


def _read_keys(path: Path | None) -> frozenset[str]:
    if path is None:
        return frozenset()
    try:
        keys = _keys_of(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"--api-key-file {path}: cannot be read: {error}") from error
    if not keys:
        raise InvalidOption(f"--api-key-file {path}: holds no key; write one a line")
    return keys


def _keys_of(text: str) -> frozenset[str]:
    return frozenset(line.strip() for line in text.splitlines() if line.strip())


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


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]+)(|Ki|Mi|Gi|Ti)", text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1073741824 or 1Gi")
    return int(match[1]) * _UNITS[match[2]]
