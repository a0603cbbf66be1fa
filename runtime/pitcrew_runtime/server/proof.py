"""`/health/proof`: a few tokens that were computed now, for whoever wants to know that it works.

It takes no key and no input: the prompt is the canary of the engine's manifest, and whoever asks
while one is computed shares its answer, so that nobody can keep the engine busy with it.
"""

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.core.request import GREEDY
from pitcrew_runtime.frontend import Frontend, Prompt
from pitcrew_runtime.server.problems import json_response

_TOKENS = 4


@dataclass
class Proof:
    """Asks the engine like any other client: through the queue, the scheduler and the sampler."""

    frontend: Frontend
    manifest: Manifest
    _running: asyncio.Task[list[int]] | None = field(default=None, init=False)

    def routes(self) -> list[Route]:
        """The one endpoint."""
        return [Route("/health/proof", self.prove, methods=["GET"])]

    async def prove(self, http: HttpRequest) -> Response:
        """The tokens, and what the builder saw; under load a tie may fall differently."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._generate())
        tokens = await asyncio.shield(self._running)
        return json_response(
            {
                "engineId": self.manifest.engine_id,
                "tokens": tokens,
                "expected": list(self.manifest.canary.continuation[: len(tokens)]),
            }
        )

    async def _generate(self) -> list[int]:
        """Raises what any request would: `NotReady`, `Draining`, `QueueFull`, `GenerationFailed`."""
        canary = self.manifest.canary
        count = min(_TOKENS, len(canary.continuation)) or 1
        prompt = Prompt(canary.prompt or (0,), count, GREEDY, frozenset())
        generation, tokens = self.frontend.start([prompt]), list[int]()
        try:
            async for _, update in generation:
                if update.sampled is not None:
                    tokens.append(update.sampled.token)
        finally:
            generation.close()
        return tokens
