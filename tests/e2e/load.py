"""A real client that asks without a break, and remembers everything that went wrong."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from openai import AsyncOpenAI, OpenAIError

CLIENTS = 8


class Load:
    """Requests one after the other from several connections, each request tried once."""

    def __init__(self, url: str, model: str, clients: int, tokens: int) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._url, self._model = url, model
        self._clients, self._tokens = clients, tokens
        self._ends = threading.Event()

    def run(self) -> None:
        """Ask until told to stop."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """Let the requests that are under way end."""
        self._ends.set()

    async def _run(self) -> None:
        async with self._client({}) as kept, self._client({"Connection": "close"}) as fresh:
            # A kept connection stays with its pod for as long as that lives; what is to reach a new
            # pod beside it has to knock again.
            clients = (kept, fresh) * (self._clients // 2)
            await asyncio.gather(*(self._ask(each, number) for number, each in enumerate(clients)))

    def _client(self, headers: dict[str, str]) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=f"{self._url}/v1",
            api_key="unused",
            max_retries=0,
            timeout=60,
            default_headers=headers,
        )

    async def _ask(self, client: AsyncOpenAI, number: int) -> None:
        while not self._ends.is_set():
            try:
                answer = await client.completions.create(
                    model=self._model,
                    prompt=f"And {number}",
                    max_tokens=self._tokens,
                    temperature=0,
                    extra_body={"ignore_eos": True},
                )
            except OpenAIError as error:
                cause = error.__cause__
                self.failed.append(f"after {self.answered}: {error!r}, because of {cause!r}")
            else:
                assert answer.choices[0].finish_reason == "length"
                self.answered += 1


@contextmanager
def load(url: str, model: str, clients: int = CLIENTS, tokens: int = 2) -> Iterator[Load]:
    """A client at work for as long as the block runs."""
    client = Load(url, model, clients, tokens)
    thread = threading.Thread(target=client.run, daemon=True)
    thread.start()
    try:
        yield client
    finally:
        client.stop()
        thread.join(90)
