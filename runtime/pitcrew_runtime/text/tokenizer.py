"""A checkpoint's tokenizer, by the `tokenizers` library alone.

What is put before a prompt is what transformers would put there: a completion's text is encoded
with the tokenizer's own post-processor, and where `tokenizer_config.json` says `add_bos_token` and
that has not happened, the beginning-of-sequence token is added. A chat template writes its own
special tokens, so its text is encoded without any additions: there is never a second one. (The
sample tiny-kjv has a `bos_token` but neither rule, so its completions start bare and its chat
template writes `<|begin|>`.)
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer as Backend

from pitcrew_builder.chat import special_tokens
from pitcrew_runtime.errors import EngineCorrupt
from pitcrew_runtime.text.detokenizer import Detokenizer

_SHORT = 4096
"""Characters or tokens that take less than a millisecond or two."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """Text to ids and back. Thread-safe: it is never changed."""

    def __init__(self, backend: Backend, config: dict[str, Any]) -> None:
        self._backend = backend
        # A checkpoint may carry the truncation or padding of its training.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.config = config
        """`tokenizer_config.json` as it is."""
        self.special_tokens = special_tokens(config)
        bos = self.special_tokens.get("bos_token")
        self._bos = backend.token_to_id(bos) if bos and config.get("add_bos_token") else None
        self._byte_level = '"ByteLevel"' in _decoder(backend)
        self.longest = max(map(len, backend.get_vocab(with_added_tokens=True)), default=1)
        """Characters of the longest token, at least."""

    @classmethod
    def load(cls, tokenizer_json: bytes, config_json: bytes) -> "Tokenizer":
        """From the contents of the two files; raises `EngineCorrupt`."""
        try:
            config = json.loads(config_json)
            return cls(Backend.from_buffer(tokenizer_json), config)
        except Exception as error:  # the library raises bare Exception
            raise EngineCorrupt(
                f"the engine's tokenizer cannot be loaded: {error}; repair the checkpoint's "
                "tokenizer.json and build the engine again"
            ) from error

    def encode(self, text: str) -> list[int]:
        """The ids of a completion's prompt."""
        ids = self._ids(text, additions=True)
        if self._bos is not None and ids[:1] != [self._bos]:
            return [self._bos, *ids]
        return ids

    def encode_rendered(self, text: str) -> list[int]:
        """The ids of a chat template's output, in which special tokens are written out."""
        return self._ids(text, additions=False)

    def _ids(self, text: str, *, additions: bool) -> list[int]:
        """The library lets go of the interpreter for batches alone, which cost a short text more."""
        if len(text) > _SHORT:
            (encoded,) = self._backend.encode_batch_fast([text], add_special_tokens=additions)
        else:
            encoded = self._backend.encode(text, add_special_tokens=additions)
        ids: list[int] = encoded.ids
        return ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Text, with special tokens or without; half a character becomes a replacement character."""
        if len(ids) > _SHORT:
            (text,) = self._backend.decode_batch([ids], skip_special_tokens=not special)
        else:
            text = self._backend.decode(ids, skip_special_tokens=not special)
        return str(text)

    def detokenizer(self) -> Detokenizer:
        """A stream of its own."""
        return Detokenizer(self.decode)

    def id_of(self, name: str) -> int | None:
        """The token of that name, such as a special one."""
        found: int | None = self._backend.token_to_id(name)
        return found

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, special tokens by their names."""
        name: str | None = self._backend.id_to_token(token)
        if name is None:
            return b""
        if self._byte_level and all(char in _byte_alphabet() for char in name):
            return bytes(_byte_alphabet()[char] for char in name)
        if byte := _BYTE_TOKEN.fullmatch(name):
            return bytes([int(byte[1], 16)])
        return name.replace("▁", " ").encode()

    def name(self, token: int) -> str:
        """A token's text; part of a character is written as `bytes:\\x..`, as OpenAI does."""
        raw = self.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _decoder(backend: Backend) -> str:
    return json.dumps(json.loads(backend.to_str()).get("decoder"))


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's printable stand-ins: bytes that print stand for themselves, the others for
    the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet
