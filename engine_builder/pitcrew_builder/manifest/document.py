"""The document itself: `manifest.json`."""

from pydantic import Field

from pitcrew_builder.manifest.identity import Identity
from pitcrew_builder.manifest.interface import GraphInterface, ModelFacts
from pitcrew_builder.manifest.scores import Canary, ProofReport, QuantizationReport
from pitcrew_builder.spec import Model

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1

_KV_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3fn": 1}
"""Of an element of the KV pools, by `GraphInterface.kv_dtype`."""


class FileEntry(Model):
    """One file of the engine directory."""

    path: str = Field(description="Relative, with forward slashes.")
    size: int = Field(ge=0, description="Bytes.")
    sha256: str


class Manifest(Model):
    """The whole truth of an engine directory."""

    schema_version: int = SCHEMA_VERSION
    engine_id: str
    tag: str
    identity: Identity
    model: ModelFacts
    ranks: tuple[GraphInterface, ...] = Field(min_length=1)
    canary: Canary
    proven: str = Field(
        default="engine",
        description="What was run before publishing: `engine`, or what stood in for it.",
    )
    files: tuple[FileEntry, ...]
    timings: dict[str, float] = Field(description="Seconds by phase.")
    quantization: QuantizationReport | None = None
    proof: ProofReport | None = None
    created_at: str = Field(description="RFC 3339, UTC.")

    @property
    def world_size(self) -> int:
        """Ranks that serve one replica."""
        return len(self.ranks)

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files."""
        return sum(entry.size for entry in self.files)

    @property
    def kv_bytes_per_token(self) -> int:
        """2 (key and value) x layers x kv_heads x head_dim x bytes of an element, over all ranks."""
        width = _KV_BYTES[self.ranks[0].kv_dtype]
        whole = self.model.layers * self.model.kv_heads
        places = [rank.placement for rank in self.ranks]
        # Ranks may repeat each other's heads, which then take room on all of them.
        heads = sum(place.layers * place.kv_heads if place else whole for place in places)
        return 2 * heads * self.model.head_dim * width

    def to_json(self) -> str:
        """The exact text of `manifest.json`."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"
