"""What was built: an engine's identity, its files, and what a runtime must know to serve it.

Pure: standard library and pydantic. An engine directory is `<root>/<Identity.relative_path>/` with
`manifest.json` (this document) beside the files that it lists. The graph's tensors follow one
naming contract, given by `GraphInterface`.
"""

from pitcrew_builder.manifest.document import MANIFEST_NAME, SCHEMA_VERSION, FileEntry, Manifest
from pitcrew_builder.manifest.identity import (
    Identity,
    ImportedCodes,
    MergedAdapter,
    QuantizationRecipe,
    ResolvedShapes,
)
from pitcrew_builder.manifest.interface import (
    ADAPTER_SLOTS,
    LORA_A,
    LORA_B,
    BlockFusion,
    BlockKernels,
    Exchange,
    GraphInterface,
    KernelLaunch,
    LoraTarget,
    ModelFacts,
    PassedValue,
    Placement,
    PlanProfile,
    PlanReport,
    SegmentFile,
    ShortTexts,
    StoredBytes,
)
from pitcrew_builder.manifest.scores import (
    CacheRange,
    Canary,
    ProofReport,
    QuantizationReport,
    QuantizedMatrix,
    Score,
    TaskScore,
)
from pitcrew_builder.manifest.wording import short_id, size_text

__all__ = [
    "ADAPTER_SLOTS",
    "LORA_A",
    "LORA_B",
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "BlockFusion",
    "BlockKernels",
    "CacheRange",
    "Canary",
    "Exchange",
    "FileEntry",
    "GraphInterface",
    "Identity",
    "ImportedCodes",
    "KernelLaunch",
    "LoraTarget",
    "Manifest",
    "MergedAdapter",
    "ModelFacts",
    "PassedValue",
    "Placement",
    "PlanProfile",
    "PlanReport",
    "ProofReport",
    "QuantizationRecipe",
    "QuantizationReport",
    "QuantizedMatrix",
    "ResolvedShapes",
    "Score",
    "SegmentFile",
    "ShortTexts",
    "StoredBytes",
    "TaskScore",
    "short_id",
    "size_text",
]
