"""What every endpoint answers for: the served model, its language and its engine."""

from dataclasses import dataclass

from pitcrew_builder.manifest import Manifest
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

    def check_model(self, model: str) -> None:
        """Raises `ModelNotFound` for any other name."""
        if model != self.name:
            raise ModelNotFound(
                f"the model {model!r} is not served here; this server has {self.name!r}",
                param="model",
            )
