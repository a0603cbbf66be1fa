"""Loading and unloading adapters over HTTP, under the names and bodies that vLLM gave them.

Both are refused unless the server was started with `--enable-runtime-lora`: whoever may send them
decides what other clients are answered with.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pitcrew_builder.manifest import short_id
from pitcrew_runtime.adapters.library import AdapterLibrary
from pitcrew_runtime.adapters.reading import within
from pitcrew_runtime.errors import NotEnabled
from pitcrew_runtime.server.bodies import read_model
from pitcrew_runtime.server.fields import Body

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 14

Name = Annotated[str, Field(min_length=1, max_length=256)]


class LoadBody(Body):
    """`POST /v1/load_lora_adapter`."""

    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False


class UnloadBody(Body):
    """`POST /v1/unload_lora_adapter`."""

    lora_name: Name
    lora_int_id: int | None = None
    """A number that vLLM gives adapters; here they have none."""


@dataclass(frozen=True, slots=True)
class LoraEndpoints:
    """What clients may do with the library."""

    library: AdapterLibrary | None
    """None for an engine that takes no adapters."""
    root: Path | None
    """Adapters are read from directories under it; None forbids loading and unloading."""

    def routes(self) -> list[Route]:
        """Two endpoints under `/v1`."""
        return [
            Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
        ]

    async def load(self, http: HttpRequest) -> Response:
        """Read an adapter and serve it under a name."""
        library, root = self._enabled()
        body, _ = await read_model(http, LoadBody, MAX_BODY_BYTES)
        loaded = await asyncio.to_thread(
            lambda: library.load(
                body.lora_name, within(root, body.lora_path), replace=body.load_inplace
            )
        )
        logger.info("Loaded adapter %s (%s)", loaded.name, short_id(loaded.weights.identity))
        return PlainTextResponse(f"Success: LoRA adapter '{loaded.name}' added successfully.")

    async def unload(self, http: HttpRequest) -> Response:
        """Serve a name no longer; requests under way are finished."""
        library, _ = self._enabled()
        body, _ = await read_model(http, UnloadBody, MAX_BODY_BYTES)
        library.unload(body.lora_name)
        logger.info("Unloaded adapter %s", body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    def _enabled(self) -> tuple[AdapterLibrary, Path]:
        if self.library is None:
            raise NotEnabled(
                "this engine takes no adapters; build it with a lora section to serve some"
            )
        if self.root is None:
            raise NotEnabled(
                "adapters cannot be loaded or unloaded here; start the server with "
                "--enable-runtime-lora and --lora-root"
            )
        return self.library, self.root
