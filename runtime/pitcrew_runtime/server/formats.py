"""The JSON of answers: OpenAI's two shapes, each whole and in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pitcrew_runtime.core.request import Sampled
from pitcrew_runtime.server.choice import Delta
from pitcrew_runtime.text.calls.piece import CallPiece
from pitcrew_runtime.text.tokenizer import Tokenizer

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every object of one answer repeats."""

    id: str
    created: int
    model: str
    fingerprint: str
    tokenizer: Tokenizer | None
    logprobs: bool
    token_ids: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer."""

    prompt: int
    completion: int
    cached: int
    """Of the prompt's, those that were found in the prefix cache."""

    def json(self) -> Json:
        """OpenAI's shape."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Format(Protocol):
    """How one endpoint writes its answers."""

    envelope: Envelope

    def opening(self, choices: int) -> list[Json]:
        """Chunks that a stream begins with."""

    def chunk(self, delta: Delta) -> Json:
        """One chunk of a stream."""

    def whole(self, deltas: Sequence[Delta], usage: Usage) -> Json:
        """The unstreamed answer: one delta per choice, holding all of it."""

    def closing(self, usage: Usage) -> Json:
        """The chunk with the usage that ends a stream."""


class CompletionFormat:
    """`text_completion` objects."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self._offsets: dict[int, int] = {}

    def opening(self, choices: int) -> list[Json]:
        """Nothing: text comes at once."""
        return []

    def chunk(self, delta: Delta) -> Json:
        """One piece of text."""
        return {**self._head(), "choices": [self._choice(delta)]}

    def whole(self, deltas: Sequence[Delta], usage: Usage) -> Json:
        """All choices and the usage."""
        choices = [self._choice(delta) for delta in deltas]
        return {**self._head(), "choices": choices, "usage": usage.json()}

    def closing(self, usage: Usage) -> Json:
        """No choices, only the usage."""
        return {**self._head(), "choices": [], "usage": usage.json()}

    def _head(self) -> Json:
        return _head(self.envelope, "text_completion")

    def _choice(self, delta: Delta) -> Json:
        choice: Json = {
            "index": delta.index,
            "text": delta.text,
            "logprobs": self._logprobs(delta) if self.envelope.logprobs else None,
            "finish_reason": delta.finish,
        }
        if self.envelope.token_ids:
            choice["token_ids"] = list(delta.token_ids)
        return choice

    def _logprobs(self, delta: Delta) -> Json:
        told = (*delta.scores, *delta.sampled)
        tokens = [_name(self.envelope.tokenizer, one.token) for one in told]
        offset = self._offsets.get(delta.index, 0)
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        self._offsets[delta.index] = offset
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in told],
            "top_logprobs": [self._top(one) for one in told],
            "text_offset": offsets,
        }

    def _top(self, one: Sampled) -> dict[str, float] | None:
        """None for the first token of a prompt, which nothing came before."""
        if one.logprob is None:
            return None
        top = {_name(self.envelope.tokenizer, token): logprob for token, logprob in one.top}
        top.setdefault(_name(self.envelope.tokenizer, one.token), one.logprob)
        return top


class ChatFormat:
    """`chat.completion` objects."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope

    def opening(self, choices: int) -> list[Json]:
        """Who speaks, for each choice."""
        role = {"role": "assistant", "content": ""}
        return [
            self._chunk({"index": index, "delta": role, "logprobs": None, "finish_reason": None})
            for index in range(choices)
        ]

    def chunk(self, delta: Delta) -> Json:
        """One piece of the message."""
        said: Json = {}
        if delta.text or not (delta.finish or delta.calls or delta.reasoning):
            said["content"] = delta.text
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.calls:
            said["tool_calls"] = [_call_piece(piece) for piece in delta.calls]
        return self._chunk(self._choice(delta, {"delta": said}))

    def whole(self, deltas: Sequence[Delta], usage: Usage) -> Json:
        """All messages and the usage."""
        choices = [self._choice(delta, {"message": _message(delta)}) for delta in deltas]
        head = _head(self.envelope, "chat.completion")
        return {**head, "choices": choices, "usage": usage.json()}

    def closing(self, usage: Usage) -> Json:
        """No choices, only the usage."""
        head = _head(self.envelope, "chat.completion.chunk")
        return {**head, "choices": [], "usage": usage.json()}

    def _chunk(self, choice: Json) -> Json:
        return {**_head(self.envelope, "chat.completion.chunk"), "choices": [choice]}

    def _choice(self, delta: Delta, content: Json) -> Json:
        choice: Json = {
            "index": delta.index,
            **content,
            "logprobs": self._logprobs(delta) if self.envelope.logprobs else None,
            "finish_reason": delta.finish,
        }
        if self.envelope.token_ids:
            choice["token_ids"] = list(delta.token_ids)
        return choice

    def _logprobs(self, delta: Delta) -> Json:
        return {"content": [self._entry(one) for one in delta.sampled], "refusal": None}

    def _entry(self, one: Sampled) -> Json:
        top = [self._token(token, logprob) for token, logprob in one.top]
        return {**self._token(one.token, one.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float | None) -> Json:
        raw = self.envelope.tokenizer.token_bytes(token) if self.envelope.tokenizer else b""
        name = _name(self.envelope.tokenizer, token)
        return {"token": name, "logprob": logprob, "bytes": list(raw)}


def _head(envelope: Envelope, kind: str) -> Json:
    return {
        "id": envelope.id,
        "object": kind,
        "created": envelope.created,
        "model": envelope.model,
        "system_fingerprint": envelope.fingerprint,
    }


def _message(delta: Delta) -> Json:
    message: Json = {"role": "assistant", "content": delta.text, "refusal": None}
    if delta.reasoning:
        message["reasoning_content"] = delta.reasoning
    if delta.calls:
        message["content"] = delta.text or None
        message["tool_calls"] = [
            {key: value for key, value in _call_piece(piece).items() if key != "index"}
            for piece in delta.calls
        ]
    return message


def _call_piece(piece: CallPiece) -> Json:
    function: Json = {"arguments": piece.arguments}
    if piece.id is None:
        return {"index": piece.index, "function": function}
    function = {"name": piece.name, **function}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def _name(tokenizer: Tokenizer | None, token: int) -> str:
    return f"token_id:{token}" if tokenizer is None else tokenizer.name(token)
