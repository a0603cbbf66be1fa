"""Answers inferences: what HTTP and gRPC share."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from pitcrew_builder import __version__
from pitcrew_runtime.frontend import Generation
from pitcrew_runtime.kserve.inference import INPUTS, OUTPUTS, Inference, outputs
from pitcrew_runtime.kserve.tensors import Tensor
from pitcrew_runtime.server.answer import deltas, joined
from pitcrew_runtime.server.choice import Choice, Delta
from pitcrew_runtime.server.completing import completion
from pitcrew_runtime.server.contest import Contest
from pitcrew_runtime.server.formats import Usage
from pitcrew_runtime.server.served import Served

SERVER = "pitcrew"
PLATFORM = "pitcrew"
EXTENSIONS = ("binary_tensor_data", "generate", "model_configuration", "model_repository")
VERSION = "1"


@dataclass(frozen=True, slots=True)
class Response:
    """One response; a stream has several, of which the last may be empty."""

    tensors: list[Tensor]
    final: bool


class Service:
    """Inferences of one served model."""

    def __init__(self, served: Served) -> None:
        self.served = served

    @property
    def ready(self) -> bool:
        """Whether an inference would be taken."""
        frontend = self.served.frontend
        return frontend.trouble() is None and not frontend.leaving

    def check(self, model: str, version: str) -> None:
        """Raises `ModelNotFound`."""
        self.served.check_model(model)
        if version not in ("", VERSION):
            self.served.check_model(f"{model} version {version}")

    async def whole(self, asked: Inference, size: int) -> Response:
        """One response with everything. Raises a `RequestError`."""
        run = await self._start(asked, size)
        found: list[list[Delta]] = [[] for _ in run.choices]
        async with aclosing(run.deltas()) as pieces:
            async for delta in pieces:
                found[delta.index].append(delta)
        texts = [joined(index, pieces) for index, pieces in enumerate(found)]
        best = Contest(asked.body.candidates, asked.body.choices).best(texts)
        return Response(outputs(asked, best, run.usage), final=True)

    async def stream(self, asked: Inference, size: int) -> AsyncGenerator[Response]:
        """A response for each piece of text; the last is marked. Raises a `RequestError`."""
        run = await self._start(asked, size)
        open_choices = len(run.choices)
        async with aclosing(run.deltas()) as pieces:
            async for delta in pieces:
                open_choices -= delta.finish is not None
                if not (delta.text or delta.finish or delta.token_ids):
                    continue
                row = [Delta(index) for index in range(len(run.choices))]
                row[delta.index] = delta
                final = not open_choices and not asked.final_response
                yield Response(outputs(asked, row, run.usage), final)
        if asked.final_response:
            yield Response([], final=True)

    async def _start(self, asked: Inference, size: int) -> "_Run":
        self.served.frontend.check_room()
        prompts, choices = await completion(self.served.language, asked.body, size)
        counted = prompts[:: asked.body.candidates]
        terms = replace(asked.terms, adapter=self.served.adapter(asked.body.model))
        generation = self.served.frontend.start(prompts, terms)
        tokens = sum(len(prompt.tokens) for prompt in counted)
        return _Run(generation, choices, tokens, asked.body.candidates)

    def metadata(self, model: str) -> dict[str, Any]:
        """The model's inputs and outputs, by the protocol's names."""
        return {
            "name": model,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [_described(name, datatype) for name, datatype in INPUTS],
            "outputs": [_described(name, datatype) for name, datatype in OUTPUTS],
        }

    def index(self) -> list[dict[str, str]]:
        """Every model that may be named: the served one and its adapters."""
        state = "READY" if self.ready else "UNAVAILABLE"
        names = [self.served.name, *(adapter.name for adapter in self.served.adapters)]
        return [{"name": name, "version": VERSION, "state": state} for name in names]

    def server_metadata(self) -> dict[str, Any]:
        """Who answers."""
        return {"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)}

    def config(self, model: str) -> dict[str, Any]:
        """What Triton's clients read of a model's configuration."""
        return {
            "name": model,
            "backend": PLATFORM,
            "max_batch_size": 0,
            "model_transaction_policy": {"decoupled": True},
        }


@dataclass(slots=True)
class _Run:
    """A generation under way."""

    generation: Generation
    choices: list[Choice]
    prompt_tokens: int
    candidates: int

    async def deltas(self) -> AsyncGenerator[Delta]:
        try:
            async for delta in deltas(self.generation, self.choices):
                yield delta
        finally:
            self.generation.close()

    @property
    def usage(self) -> Usage:
        """So far."""
        return Usage(
            self.prompt_tokens,
            sum(choice.tokens for choice in self.choices),
            self.generation.cached_tokens(self.candidates),
        )


def _described(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1]}
