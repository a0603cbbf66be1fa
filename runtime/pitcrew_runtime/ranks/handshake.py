"""The first words on a connection between pods: who calls, what for, and whether they belong together.

The one that is called sends a nonce; the caller says who it is and proves that it knows the group's
token (HMAC-SHA256 over nonce and words); then it is the other's turn. Both ends hold the same engine,
in the same split, or the call is refused with both values. Words are JSON, never executed.
"""

import hashlib
import hmac
import json
import secrets
import socket
import struct
from dataclasses import dataclass
from typing import Any

from pitcrew_builder import __version__
from pitcrew_builder.spec import Model
from pitcrew_runtime.errors import RankFailed
from pitcrew_runtime.ranks.stream import prepare, read

SECONDS = 10.0
"""For one handshake."""
_LENGTH = struct.Struct("<I")
_LARGEST = 1 << 16
Words = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Badge:
    """What all members have in common."""

    engine_id: str
    world_size: int
    pods: int
    ranks_each: int
    token: bytes
    tls: bool = False
    """Ranks speak under TLS."""

    @property
    def words(self) -> Words:
        """For the other end to compare."""
        return {
            "engine": self.engine_id,
            "world size": self.world_size,
            "pods": self.pods,
            "ranks per pod": self.ranks_each,
            "use of --rank-tls-dir": self.tls,
            "version": __version__,
        }


class Purpose(Model):
    """What a connection is for."""

    kind: str
    """`pod`, `rank` or `pair`."""
    numbers: tuple[int, ...]
    """The pod, the rank or both ranks."""
    port: int = 0
    """On which the pod that calls can be called."""

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """Without what only a pod has to tell."""
        return self.kind, self.numbers


class Refused(RankFailed):
    """The other end does not want us, or we not it: trying again is of no use."""


def call(end: socket.socket, badge: Badge, purpose: Purpose) -> None:
    """The caller's part. Raises `Refused`, `OSError`, `EOFError` or `ValueError`."""
    end.settimeout(SECONDS)
    nonce = secrets.token_hex(16)
    told = receive_words(end)
    words = {"badge": badge.words, "purpose": purpose.model_dump(), "nonce": nonce}
    send_words(end, {**words, "proof": _proof(badge, str(told["nonce"]), words)})
    answer = receive_words(end)
    if "refused" in answer:
        raise Refused(f"this pod was refused: {answer['refused']}")
    if not hmac.compare_digest(str(answer.get("proof")), _proof(badge, nonce, {"accepted": True})):
        raise Refused("whoever answers does not know the token of this group")
    prepare(end)


def answer(end: socket.socket, badge: Badge) -> Purpose:
    """The other part. Raises `Refused`, `OSError`, `EOFError` or `ValueError`."""
    end.settimeout(SECONDS)
    nonce = secrets.token_hex(16)
    send_words(end, {"nonce": nonce})
    words = receive_words(end)
    proof = str(words.pop("proof", None))
    trouble = _trouble(badge, words) if _knows(badge, nonce, words, proof) else _STRANGER
    if trouble is not None:
        send_words(end, {"refused": trouble})
        raise Refused(trouble)
    purpose = Purpose.model_validate(words["purpose"])
    accepted = {"proof": _proof(badge, str(words["nonce"]), {"accepted": True})}
    send_words(end, accepted)
    prepare(end)
    return purpose


def send_words(end: socket.socket, words: Words) -> None:
    """Raises `OSError`."""
    text = json.dumps(words, sort_keys=True).encode()
    end.sendall(_LENGTH.pack(len(text)) + text)


def receive_words(end: socket.socket) -> Words:
    """Raises `OSError`, `EOFError` or `ValueError`."""
    (length,) = _LENGTH.unpack(read(end, _LENGTH.size))
    if length > _LARGEST:
        raise ValueError(f"{length} bytes are no words of a rank")
    match json.loads(read(end, length)):
        case dict(words):
            return words
        case _:
            raise ValueError("these are no words of a rank")


_STRANGER = "the token differs: give all pods of a group the same --rank-token-file"


def _knows(badge: Badge, nonce: str, words: Words, proof: str) -> bool:
    return hmac.compare_digest(proof, _proof(badge, nonce, words))


def _proof(badge: Badge, nonce: str, words: Words) -> str:
    text = nonce + json.dumps(words, sort_keys=True)
    return hmac.new(badge.token, text.encode(), hashlib.sha256).hexdigest()


def _trouble(badge: Badge, words: Words) -> str | None:
    theirs = words.get("badge")
    for name, ours in badge.words.items():
        found = theirs.get(name) if isinstance(theirs, dict) else None
        if found != ours:
            return (
                f"the {name} is {found!r} in the pod that calls and {ours!r} in the one that is "
                "called; start all pods of a group from one template, with one image and engine"
            )
    return None
