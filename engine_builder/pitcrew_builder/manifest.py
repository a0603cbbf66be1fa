"""What was built: an engine's identity, its files, and what a runtime must know to serve it.

Pure: standard library and pydantic. An engine directory is `<root>/<Identity.relative_path>/` with
`manifest.json` (this document) beside the files that it lists. The graph's tensors follow one
naming contract, given by `GraphInterface`.
"""

import hashlib
import json
import re
from typing import Literal

from pydantic import Field

from pitcrew_builder.spec import (
    CacheFormat,
    Lora,
    Model,
    Parallelism,
    Platform,
    Precision,
    QuantizationMethod,
    Target,
    TaskMetric,
    TensorRtPlan,
    WeightFormat,
)
from pitcrew_builder.spec.base import is_empty, is_none

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1

_KV_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3fn": 1}
"""Of an element of the KV pools, by `GraphInterface.kv_dtype`."""


class ResolvedShapes(Model):
    """`Shapes` with every default decided."""

    max_batch_size: int
    max_sequence_length: int
    kv_page_size: int


class ImportedCodes(Model):
    """How the checkpoint was quantized before it came here; its codes are kept."""

    method: str = Field(description="Its `quant_method`, such as `gptq`.")
    bits: int
    group_size: int | None = Field(description="Inputs that share a scale; null: all of them.")
    zero_points: bool = Field(description="Whether groups may have one of their own.")
    act_order: bool = Field(description="Whether groups gather inputs from anywhere.")


class QuantizationRecipe(Model):
    """`Quantization` with every default decided, and what it was calibrated on."""

    weights: WeightFormat | None
    method: QuantizationMethod | None = Field(description="Null where weights are.")
    block_size: int
    imported: ImportedCodes | None = Field(default=None, exclude_if=is_none)
    kv_cache: CacheFormat | None = Field(default=None, exclude_if=is_none)
    calibration_sha256: str | None = Field(
        default=None, description="Digest of the prompts that were calibrated on."
    )

    @property
    def calibrates_weights(self) -> bool:
        """Whether activations decided anything about matrices."""
        calibrated = (QuantizationMethod.AWQ, QuantizationMethod.GPTQ)
        by_activations = self.weights is WeightFormat.FP8 or self.method in calibrated
        return by_activations and self.imported is None

    @property
    def tag(self) -> str:
        """For people, such as `int4-awq-kvfp8`; plain rounding goes without saying."""
        parts = [self.weights, None if self.method is QuantizationMethod.ROUND else self.method]
        cache = [f"kv{self.kv_cache}"] if self.kv_cache else []
        return "-".join([*(part.value for part in parts if part), *cache])


class MergedAdapter(Model):
    """A LoRA adapter whose change is in the weights."""

    model: str = Field(description="The adapter's own name.")
    commit: str = Field(description="40 hex digits, as those of the checkpoint.")
    inputs: dict[str, str] = Field(description="Adapter file -> sha256.")
    weight: str = Field(description="What its change was multiplied by, as a decimal.")


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
    adapters: tuple[MergedAdapter, ...] = ()
    lora: Lora | None = None
    tensorrt: TensorRtPlan | None = None
    quantization: QuantizationRecipe | None = None
    platform: Platform | None = Field(
        default=None, description="The machines that the plan was tuned on, where they were named."
    )
    proof_sha256: str | None = Field(
        default=None, description="Digest of the held-out prompts whose scores the manifest has."
    )
    tasks_sha256: str | None = Field(
        default=None, description="Digest of the tasks whose scores the manifest has."
    )

    @property
    def engine_id(self) -> str:
        """64 hex digits, equal for equal inputs on every machine."""
        document = self.model_dump(mode="json", by_alias=True, exclude=self._unset())
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _unset(self) -> set[str]:
        """Optional fields at their default: the hash leaves them out, so that a new version's new
        field changes no old engine's id.
        """
        fields = type(self).model_fields.items()
        optional = {name: field.default for name, field in fields if not field.is_required()}
        return {name for name, default in optional.items() if getattr(self, name) == default}

    @property
    def target_tag(self) -> str:
        """Toolchain, layout and precision for people, such as `cpu-ort1.32.0-fp32` or
        `cuda13-trt10.15.1.29-sm90-tp2-bf16`.
        """
        layout = [
            f"{short}{degree}"
            for short, degree in (
                ("tp", self.parallelism.tensor),
                ("pp", self.parallelism.pipeline),
                ("ep", self.parallelism.expert),
            )
            if degree > 1
        ]
        narrow = [self.quantization.tag] if self.quantization else []
        merged = [f"lora{len(self.adapters)}"] if self.adapters else []
        slots = [f"slots{self.lora.max_adapters}r{self.lora.max_rank}"] if self.lora else []
        return "-".join([*self._tools, *layout, self.precision.value, *narrow, *merged, *slots])

    @property
    def _tools(self) -> list[str]:
        if self.tensorrt is None:
            return ["cpu", f"ort{self.toolchain['onnxruntime']}"]
        label = "rtx" if self.target is Target.TENSORRT_RTX else "trt"
        return [
            f"cuda{self.toolchain['cuda']}",
            f"{label}{self.toolchain[self.target.value]}",
            self.tensorrt.compute_capability.value,
        ]

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


class PlanProfile(Model):
    """The shapes that one optimization profile of a plan was compiled for."""

    name: str = Field(description="prefill or decode; a plan numbers its profiles in their order.")
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = Field(
        description="Input -> least, usual and largest shape."
    )


class BlockFusion(Model):
    """What a compiler made of one block of the graph."""

    block: str = Field(description="Outermost scope of the nodes; empty for those in none.")
    operators: int = Field(description="Nodes of the graph, functions opened.")
    layers: int = Field(
        description="Layers that the compiler read them as, without those it added itself."
    )
    kernels: tuple[int, ...] = Field(
        description="Kernels launched in each profile; empty where the plan does not tell."
    )


class PlanReport(Model):
    """What a compiled plan is."""

    profiles: tuple[PlanProfile, ...]
    blocks: tuple[BlockFusion, ...]


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


class Exchange(Model):
    """What the ranks of `group` do together: each gives its `value` and each gets `result`."""

    operator: Literal["AllReduce", "AllGather"] = Field(
        description="AllReduce: the sum. AllGather: side by side on the last axis, in group order."
    )
    value: str
    result: str
    group: tuple[int, ...] = Field(description="Ranks.")


class SegmentFile(Model):
    """A part of a rank's graph that needs no other rank, and the exchanges after it."""

    graph: str = Field(description="Path in the engine directory.")
    exchanges: tuple[Exchange, ...]


class Placement(Model):
    """What a rank holds of a network that is split."""

    tensor: int = Field(description="Position among the ranks that share each layer.")
    pipeline: int = Field(description="Position among the ranges of layers.")
    expert: int = Field(description="Position among the ranks that share the experts.")
    first_layer: int
    layers: int
    first_kv_head: int
    kv_heads: int


ADAPTER_SLOTS, LORA_A, LORA_B = "adapter_slots", "lora_a.", "lora_b."
"""Names of the graph's inputs for adapters; the latter two end with a target's name."""


class LoraTarget(Model):
    """A linear map that adapters may change, and the part of it that a rank computes."""

    name: str = Field(description="Of the graph's inputs `lora_a.<name>` and `lora_b.<name>`.")
    module: str = Field(description="The checkpoint's linear map, as adapters name it.")
    shape: tuple[int, int] = Field(description="Outputs and inputs of the checkpoint's matrix.")
    first_output: int
    outputs: int
    first_input: int
    inputs: int

    @property
    def down(self) -> str:
        """The input of its A, [slots, R, inputs]."""
        return f"{LORA_A}{self.name}"

    @property
    def up(self) -> str:
        """The input of its B, [slots, outputs, R]."""
        return f"{LORA_B}{self.name}"


class GraphInterface(Model):
    """Names and types of the graph's tensors; a plan's are the same.

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

    Pools, and new keys and values, have the type `kv_dtype`. Those of one byte (`int8`,
    `float8_e4m3fn`) are codes that the graph makes and reads; a caller moves bytes and needs no
    scale. Pools of `float8_e4m3fn` are inputs of type int8 that hold its bytes, because neither ONNX
    nor TensorRT gathers elements of that type.

    With `lora`, each sequence names the adapter that changes the network for it (Hu et al. 2021,
    "LoRA"). Further inputs: `adapter_slots` int64 [B], in [0, slots); and for every target
    `lora_a.<name>` [slots, R, inputs] and `lora_b.<name>` [slots, outputs, R], in the type of the
    activations. Slots are dynamic, 1 to `max_adapters` + 1; R is `max_rank` (both in the identity);
    a smaller rank is padded with zeros. A sequence's rows x of that target get B A x added, so
    scaling is in A or B, and a slot of zeros (slot 0, by convention) is the network itself.

    A rank of a split network has the pools and new keys and values of its own layers and KV heads
    alone. A pipeline stage that is not the last gives `rows.<layer>` [B * S, hidden] in place of
    `logits` and takes no `logit_indices`; the stage that begins with that layer takes the rows of
    the same tensor and expert position. `llm::AllReduce` and `llm::AllGather` nodes exchange values
    within a stage; an executor without them runs `segments` instead: one after the other, each fed
    by name with inputs and earlier values, and after each the exchanges.
    """

    graph: str = Field(description="Path of the rank's graph in the engine directory.")
    placement: Placement | None = Field(default=None, description="Absent: the whole network.")
    segments: tuple[SegmentFile, ...] = Field(
        default=(), description="Empty where the graph holds no collective."
    )
    kv_dtype: str = Field(
        default="float32", description="float32, float16, bfloat16, int8 or float8_e4m3fn."
    )
    lora: tuple[LoraTarget, ...] = Field(
        default=(), description="What adapters may change; empty in an engine without slots."
    )
    plan: PlanReport | None = Field(
        default=None, description="Set where `graph` is a plan for one kind of GPU."
    )


class Canary(Model):
    """A prompt and its greedy continuation on the engine as built; a warm runtime must agree."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


class Score(Model):
    """The engine beside its reference on the same held-out text, in one shape."""

    batch: int = Field(description="Sequences of one step.")
    capacity: int = Field(description="Tokens that the page table had room for.")
    tokens: int = Field(description="Predicted tokens.")
    perplexity: float
    reference_perplexity: float
    top1_agreement: float = Field(description="Share of positions with the same likeliest token.")
    kl_divergence: float = Field(description="Mean nats from the reference to the engine.")


class TaskScore(Model):
    """Greedy answers beside the references of one task, in percent."""

    metric: TaskMetric
    samples: int = Field(description="Questions that were answered.")
    score: float = Field(description="Of the engine; of wer less is better.")
    reference_score: float | None = Field(
        description="Of the unquantized network; null where the engine is that network."
    )


class ProofReport(Model):
    """What was measured before the engine was published."""

    prompts: int
    prompts_sha256: str
    reference: str = Field(description="What the engine was compared with.")
    scores: tuple[Score, ...]
    tasks: tuple[TaskScore, ...] = Field(default=(), exclude_if=is_empty)

    @property
    def worst(self) -> Score:
        """The score whose perplexity rose most."""
        return max(self.scores, key=lambda score: score.perplexity / score.reference_perplexity)


class QuantizedMatrix(Model):
    """One matrix: before and after."""

    name: str
    block: int = Field(description="Inputs that share a scale.")
    bytes_before: int = Field(description="Unquantized, as this engine would store it.")
    bytes_after: int = Field(description="Codes and scales.")
    relative_error: float | None = Field(
        default=None,
        description="Frobenius norm of the error over the matrix's; null where only codes are known.",
    )
    input_range: float | None = Field(
        default=None, description="Largest magnitude of an activation in calibration."
    )


class CacheRange(Model):
    """What one layer's narrow cache was scaled to: the largest magnitudes in calibration."""

    layer: int
    keys: float
    values: float


class QuantizationReport(Model):
    """What quantization did."""

    prompts: int = Field(description="Prompts that were calibrated on.")
    tokens: int
    warnings: tuple[str, ...] = ()
    matrices: tuple[QuantizedMatrix, ...]
    kept: tuple[str, ...] = Field(description="Matrices that stayed as they were.")
    kv_cache: tuple[CacheRange, ...] = Field(
        default=(), description="By layer; empty where the KV cache is not narrow."
    )


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
