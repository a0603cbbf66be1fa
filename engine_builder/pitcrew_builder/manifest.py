"""What was built: an engine's identity, its files, and what a runtime must know to serve it.

Pure: standard library and pydantic. An engine directory is `<root>/<Identity.relative_path>/` with
`manifest.json` (this document) beside the files that it lists. The graph's tensors follow one
naming contract, given by `GraphInterface`.
"""

import hashlib
import json
import re

from pydantic import Field

from pitcrew_builder.spec import Model, Parallelism, Precision, Target

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1


class ResolvedShapes(Model):
    """`Shapes` with every default decided."""

    max_batch_size: int
    max_sequence_length: int
    kv_page_size: int


class Identity(Model):
    """Everything that decides the bytes of an engine. Its hash is the engine id."""

    model: str
    commit: str = Field(description="40 hex digits: the hub's commit, or the digest of the files.")
    inputs: dict[str, str] = Field(description="Checkpoint file -> sha256.")
    target: Target
    precision: Precision
    parallelism: Parallelism
    shapes: ResolvedShapes
    toolchain: dict[str, str] = Field(description="Compiler and runtime versions by name.")
    builder_version: str

    @property
    def engine_id(self) -> str:
        """64 hex digits, equal for equal inputs on every machine."""
        document = self.model_dump(mode="json", by_alias=True)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def target_tag(self) -> str:
        """Toolchain, layout and precision for people, such as `cpu-ort1.32.0-fp32`."""
        layout = [
            f"{short}{degree}"
            for short, degree in (
                ("tp", self.parallelism.tensor),
                ("pp", self.parallelism.pipeline),
                ("ep", self.parallelism.expert),
            )
            if degree > 1
        ]
        return "-".join(
            ["cpu", f"ort{self.toolchain['onnxruntime']}", *layout, self.precision.value]
        )

    @property
    def tag(self) -> str:
        """Model, commit and target in one word, such as `tiny-kjv-0e9e39f-cpu-ort1.32.0-fp32`."""
        return f"{self.slug}-{self.commit[:7]}-{self.target_tag}"

    @property
    def slug(self) -> str:
        """The model's name as one lower-case path segment."""
        name = self.model.rsplit("/", 1)[-1].lower()
        return re.sub(r"[^a-z0-9.]+", "-", name).strip("-.") or "model"

    @property
    def relative_path(self) -> str:
        """Where the engine lies under the store's root."""
        return f"{self.slug}/{self.commit[:12]}/{self.target_tag}/{self.engine_id[:12]}"


class FileEntry(Model):
    """One file of the engine directory."""

    path: str = Field(description="Relative, with forward slashes.")
    size: int = Field(ge=0, description="Bytes.")
    sha256: str


class ModelFacts(Model):
    """What the runtime needs to know of the network."""

    architecture: str = Field(description="Hugging Face `model_type`, such as `llama`.")
    parameters: int
    layers: int
    hidden_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None


class GraphInterface(Model):
    """Names and types of the graph's tensors.

    B sequences, S new tokens of each, P block-table entries, K positions whose logits are wanted;
    all four are dynamic. D is the head dimension.

    Inputs:  `input_ids` int64 [B, S]; `positions` int64 [B, S], absolute, in [0, max length);
             `block_tables` int64 [B, P], page numbers, any valid page where unused (P may be 0);
             `context_lengths` int64 [B], tokens of each sequence already in its pages;
             `logit_indices` int64 [B, K], indices into S;
             `key_pool.<layer>` and `value_pool.<layer>` [pages, page, kv_heads, D].
    Outputs: `logits` float32 [B, K, vocab];
             `new_keys.<layer>` and `new_values.<layer>` [B, S, kv_heads, D] (keys after rotary
             embedding), which the caller writes into the pools.

    A new token attends to its sequence's first `context_lengths` pooled tokens and, causally, to
    the new tokens before it; a row shorter than S is padded on the right. Every slot of the pools
    holds a finite number, used or not: a masked one counts with weight 0, which a NaN survives.
    """

    graph: str = Field(description="Path of the rank's graph in the engine directory.")
    kv_dtype: str = "float32"


class Canary(Model):
    """A prompt and its greedy continuation on the engine as built; a warm runtime must agree."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


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
        """2 (key and value) x layers x kv_heads x head_dim x bytes of an element."""
        width = {"float32": 4, "float16": 2, "bfloat16": 2}[self.ranks[0].kv_dtype]
        return 2 * self.model.layers * self.model.kv_heads * self.model.head_dim * width

    def to_json(self) -> str:
        """The exact text of `manifest.json`."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"
