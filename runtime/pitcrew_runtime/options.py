"""What the options of `pitcrew-serve` say: all that may be chosen about serving an engine.

Whoever serves an engine by another way in, such as Triton, names its choices alike.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pitcrew_runtime.arguments import GROUP_SIZE, INDEX, KEYS_VARIABLE, LEADER
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.errors import InvalidOption

if TYPE_CHECKING:
    from pitcrew_runtime.drafting import Speculation
    from pitcrew_runtime.ranks.pods import Pods
    from pitcrew_runtime.serve import Settings


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
        client_seconds=options.client_seconds,
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
        _number_of(env, name, default) for name, default in ((GROUP_SIZE, 1), (INDEX, 0))
    )
    each, world = options.ranks_per_pod, options.world_size
    if each is None and count > 1:
        raise InvalidOption(
            f"{GROUP_SIZE} is {count}: give --ranks-per-pod, so that the group serves one engine"
        )
    if each is not None and each * count != world:
        raise InvalidOption(
            f"--ranks-per-pod {each}: {count} pods ({GROUP_SIZE}) of {each} are {each * count} "
            f"ranks, but --world-size is {world}; make them equal"
        )
    if count == 1:
        return None
    if not 0 <= index < count or not (leader := env.get(LEADER, "")):
        raise InvalidOption(
            f"{INDEX} is {index} and {LEADER} {env.get(LEADER)!r}: a group of {count} pods needs "
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
        tls=_certificates(options.rank_tls_dir),
    )


def _certificates(folder: Path | None) -> Path | None:
    """Raises `InvalidOption` here and now, and not when ranks first use them."""
    from pitcrew_runtime.ranks.sealed import context

    if folder is not None:
        context(folder, answers=True)
    return folder


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
