"""What every endpoint answers for: the served model, its adapters, its language and its engine."""

from collections.abc import Sequence
from dataclasses import dataclass

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.adapters.library import AdapterLibrary, Loaded
from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.errors import ModelNotFound
from pitcrew_runtime.frontend import Frontend
from pitcrew_runtime.server.translate import Language


@dataclass(frozen=True, slots=True)
class Served:
    """One served model."""

    name: str
    manifest: Manifest
    language: Language
    frontend: Frontend
    library: AdapterLibrary | None = None
    """None for an engine that takes no adapters."""

    @property
    def adapters(self) -> Sequence[Loaded]:
        """What is served beside the model itself."""
        return self.library.loaded if self.library is not None else ()

    def check_model(self, model: str) -> None:
        """Raises `ModelNotFound` for any other name than the model's and its adapters'."""
        self.adapter(model)

    def adapter(self, model: str) -> Adapter | None:
        """What the network is changed by under a name. Raises `ModelNotFound`."""
        found = self.library.find(model) if self.library is not None else None
        if found is None and model != self.name:
            count = len(self.adapters)
            beside = f" and {count} adapters, see /v1/models" if count else ""
            raise ModelNotFound(
                f"the model {model[:256]!r} is not served here; this server has {self.name!r}{beside}",
                param="model",
            )
        return found
