"""What a runtime must know to run an engine's graphs or plans."""

from typing import Literal

from pydantic import Field

from pitcrew_builder.spec import Model

ADAPTER_SLOTS, LORA_A, LORA_B = "adapter_slots", "lora_a.", "lora_b."
"""Names of the graph's inputs for adapters; the latter two end with a target's name."""


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
