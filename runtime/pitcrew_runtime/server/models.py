"""`/v1/models`: the names that clients may give as `model`."""

from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pitcrew_runtime.adapters.library import Loaded
from pitcrew_runtime.server import problems
from pitcrew_runtime.server.formats import Json
from pitcrew_runtime.server.served import Served


@dataclass(frozen=True, slots=True)
class Models:
    """The served model, and the adapters that change it; `parent` says what an adapter changes."""

    served: Served

    def routes(self) -> list[Route]:
        """The list, and each entry by its name."""
        return [
            Route("/v1/models", self.cards, methods=["GET"]),
            Route("/v1/models/{model:path}", self.card, methods=["GET"]),
        ]

    async def cards(self, http: HttpRequest) -> Response:
        """All of them, the model itself first."""
        adapters = [self._adapter(loaded) for loaded in self.served.adapters]
        return problems.json_response({"object": "list", "data": [self._base(), *adapters]})

    async def card(self, http: HttpRequest) -> Response:
        """One of them."""
        name = http.path_params["model"]
        for loaded in self.served.adapters:
            if loaded.name == name:
                return problems.json_response(self._adapter(loaded))
        self.served.check_model(name)
        return problems.json_response(self._base())

    def _base(self) -> Json:
        manifest = self.served.manifest
        created = datetime.fromisoformat(manifest.created_at)
        return {
            "id": self.served.name,
            "object": "model",
            "created": int(created.timestamp()),
            "owned_by": "pitcrew",
            "root": manifest.tag,
            "parent": None,
            "max_model_len": self.served.language.max_length,
        }

    def _adapter(self, loaded: Loaded) -> Json:
        return self._base() | {
            "id": loaded.name,
            "created": loaded.since,
            "root": f"sha256:{loaded.weights.identity}",
            "parent": self.served.name,
        }
