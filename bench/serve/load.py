"""N clients at once against a server of OpenAI's API, and what each of them saw.

Bodies hold token ids, so every server reads the same prompt, and one that no other request begins
with. The client reads bytes and parses as little as it can: it shares the cores with the server.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

FIRST_TOKEN, LAST_TOKEN = 3, 2000
"""Known to every model here."""
NOTHING: Mapping[str, object] = {}


@dataclass(frozen=True)
class Shape:
    """What every request looks like."""

    prompt: int
    output: int

    def prompts(self, clients: int, seed: int) -> list[list[int]]:
        """One of random tokens for each client."""
        rng = random.Random(seed)
        return [
            [rng.randint(FIRST_TOKEN, LAST_TOKEN) for _ in range(self.prompt)]
            for _ in range(clients)
        ]


@dataclass(frozen=True)
class Round:
    """All clients, once, from the first byte sent to the last one read."""

    seconds: float
    firsts: list[float]
    """Seconds to the first token of each."""
    tokens: list[int]
    """Generated for each."""

    @property
    def rate(self) -> float:
        """Generated tokens a second, of all clients together."""
        return sum(self.tokens) / self.seconds

    @property
    def first(self) -> float:
        """Median seconds to a first token."""
        return statistics.median(self.firsts)

    def check(self, shape: Shape) -> None:
        """Raises `SystemExit` where an answer has not the length that was asked for."""
        if wrong := [count for count in self.tokens if count != shape.output]:
            raise SystemExit(f"answers of {wrong} tokens, {shape.output} were asked for")


def clients_at_once(
    url: str, prompts: list[list[int]], output: int, more: Mapping[str, object] = NOTHING
) -> Round:
    """One request from each client, with `more` fields that only this server knows."""
    bodies = [json.dumps(_body(prompt, output, more)).encode() for prompt in prompts]
    return asyncio.run(_round(url, bodies))


async def _round(url: str, bodies: list[bytes]) -> Round:
    started = time.perf_counter()
    found = await asyncio.gather(*(_client(url, body) for body in bodies))
    seconds = time.perf_counter() - started
    return Round(seconds, [one[0] for one in found], [one[1] for one in found])


async def _client(url: str, raw: bytes) -> tuple[float, int]:
    """Seconds to the first token, and how many tokens there were."""
    address = urlsplit(url)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
        "Connection: close\r\n\r\n"
    )
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(head.encode() + raw)
    seen, first = bytearray(), 0.0
    while piece := await reader.read(1 << 16):
        seen += piece
        if not first and b"data: {" in seen:
            first = time.perf_counter() - started
    writer.close()
    return first, _generated(bytes(seen))


def _body(prompt: list[int], output: int, more: Mapping[str, object]) -> dict[str, object]:
    return {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


def _generated(answer: bytes) -> int:
    """What the server says it has generated. Raises `SystemExit` with what it says instead."""
    usage = answer.rfind(b'"completion_tokens":')
    if usage < 0:
        raise SystemExit(f"no usage in the answer: {answer[:600]!r}")
    digits = answer[usage:].split(b":", 1)[1].lstrip().split(b",")[0].rstrip(b"}")
    return int(digits)
