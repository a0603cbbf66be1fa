"""Bytes, sequences and seconds of a planned engine. Sizes are exact; times are rough and say so.

Bytes of the KV cache for one token on a rank: 2 (key and value) x its layers x its KV heads x the
head dimension x bytes of an element. Sequences that a pool has room for: pool / (bytes per token x
tokens), and never more than the batch that the engine is compiled for. Decoding reads all weights
and the cache of every sequence once a step, so bandwidth bounds its speed (Williams et al. 2009,
"Roofline"; Pope et al. 2022, "Efficiently Scaling Transformer Inference").
"""

from dataclasses import dataclass

from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.plan.gpus import Gpu
from pitcrew_builder.plan.network import Planned, Rank
from pitcrew_builder.proof.plan import cases, chunk
from pitcrew_builder.spec import BuildSpec, Precision

PREFILL_CHUNK = 2048
"""Tokens of one prefill step, where the spec does not say."""

RESERVED = 1 << 30
"""Bytes of a GPU that its driver, context and kernels take."""

POOL_SHARE = (8, 10)
"""The share of the free memory that a runtime gives to its pages, as a fraction."""

BASE_RAM = 256 << 20
"""Bytes of a build beside weights: the interpreter, its libraries and the chunks in flight."""

COPIES = 3
"""Copies of a rank's weights that a plan compiler holds: parsed, chosen kernels' own, the plan."""

PACKED = 2
"""Copies of narrow weights that ONNX Runtime holds of each form that it proves: read, and packed."""

PROVEN_ON = 128
"""Tokens of a prompt that a quantized engine is proven on, which a plan does not see."""

LOGITS_HELD = 6
"""Copies of one step's logits in a proof: both networks', and what they are compared by."""

READ_RATE, WRITE_RATE = 1_000_000_000, 400_000_000
"""Bytes a second of hashing and converting, and of writing durably: an ordinary build volume."""

COMPILE_SECONDS, COMPILE_RATE = 60, 50_000_000
"""What a plan compiler takes for any network, and the bytes of weights a second beyond that."""


@dataclass(frozen=True, slots=True)
class RankNeeds:
    """What one rank takes of its device. All in bytes."""

    weights: int
    """In memory: a CPU widens what is stored as halves."""
    adapters: int
    """The slots that a runtime fills with adapters."""
    activations: int
    kv_per_token: int

    @property
    def fixed(self) -> int:
        """What is taken before the first token is cached."""
        return self.weights + self.adapters + self.activations


@dataclass(frozen=True, slots=True)
class Needs:
    """What an engine takes, wherever it runs."""

    ranks: tuple[RankNeeds, ...]
    engine_disk: int
    """Bytes of the published directory, but for the tokenizer's files."""
    build_disk: int
    """Bytes on the store's volume while it is built, the engine included."""
    build_ram: int
    build_seconds: int
    """Rough: of reading, writing and compiling, without a download, a calibration or a proof."""

    @property
    def kv_per_token(self) -> int:
        """Bytes of one token over all ranks."""
        return sum(rank.kv_per_token for rank in self.ranks)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica can hold and do on a GPU product."""

    pool: int
    """Bytes for KV pages on the fullest rank; not positive where the engine does not fit."""
    tokens: int
    """Tokens that all ranks have room for."""
    full_sequences: int
    """Sequences of the greatest length that have room at once."""
    sequences: int
    """Sequences of the average length at once: the lesser of room and maximum batch."""
    tokens_per_second: int
    """What bandwidth allows that many sequences to decode; an upper bound."""

    @property
    def fits(self) -> bool:
        """Whether at least one sequence of the greatest length can be served."""
        return self.full_sequences >= 1


def needs(spec: BuildSpec, network: Planned) -> Needs:
    """What an engine of the spec takes."""
    ranks = tuple(_rank_needs(spec, network, rank) for rank in network.ranks)
    sizes = [rank.sizes for rank in network.ranks]
    stored = sum(each.data + each.graphs for each in sizes)
    plans = spec.target.compiles_plans
    scratch = _scratch(network, plans=plans)
    compiling = COMPILE_SECONDS + stored // COMPILE_RATE if plans else 0
    # An encoder, or a transposition, holds one matrix whole.
    held = max(each.widest for each in sizes)
    if network.compares:
        # A CPU's engine is proven in two forms.
        held += PACKED * (1 if plans else 2) * sum(each.proof for each in sizes)
        held += _proof_runs(network, plans=plans)
    if plans:
        held = max(held, COPIES * max(each.data for each in sizes))
    return Needs(
        ranks=ranks,
        engine_disk=stored,
        build_disk=stored + scratch,
        build_ram=BASE_RAM + held,
        build_seconds=1 + stored // READ_RATE + (stored + scratch) // WRITE_RATE + compiling,
    )


def _proof_runs(network: Planned, *, plans: bool) -> int:
    """Bytes that a proof takes beside weights: its networks' activations, caches and logits.

    The engine, its form with contexts on a CPU, and what it is compared with run a full batch each,
    and none gives back what its largest step took. Every shape has a cache of its own (`proof.plan`).
    """
    config, shapes, width = network.config, network.shapes, ElementType.FLOAT32.dtype.itemsize
    batch, longest = shapes.max_batch_size, min(PROVEN_ON, shapes.max_sequence_length)
    new = chunk(batch, longest, config.vocab_size)
    each = sum(
        _step(network, rank, width, (batch, new), longest, fused=False) for rank in network.ranks
    )
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width
    caches = (1 + len(cases(shapes, longest))) * batch * longest * cached
    logits = LOGITS_HELD * batch * new * config.vocab_size * width
    return (2 if plans else 3) * each + caches + logits


def _scratch(network: Planned, *, plans: bool) -> int:
    """Bytes beside the engine until it is published."""
    sizes = [rank.sizes for rank in network.ranks]
    # Beside a plan, the graph in its precision and in float32.
    graphs = sum(each.data + each.proof + 2 * each.graphs for each in sizes) if plans else 0
    beside = sum(each.codes + each.widened for each in sizes)
    return graphs + beside + (sum(each.wide for each in sizes) if network.compares else 0)


def capacity(spec: BuildSpec, network: Planned, needed: Needs, gpu: Gpu, average: int) -> Capacity:
    """What one replica does where each rank has such a GPU; `average` in tokens."""
    pools = [_pool(gpu.memory - RESERVED - rank.fixed) for rank in needed.ranks]
    page = network.shapes.kv_page_size
    tokens = min(
        max(pool, 0) // (rank.kv_per_token * page) * page
        for pool, rank in zip(pools, needed.ranks, strict=True)
    )
    at_once = min(network.shapes.max_batch_size, tokens // _paged(average, page))
    return Capacity(
        pool=min(pools),
        tokens=tokens,
        full_sequences=min(
            network.shapes.max_batch_size,
            tokens // _paged(network.shapes.max_sequence_length, page),
        ),
        sequences=at_once,
        tokens_per_second=_bound(needed, gpu, at_once, average, spec.parallelism.pipeline),
    )


def _bound(needed: Needs, gpu: Gpu, sequences: int, average: int, stages: int) -> int:
    """Tokens a second: stages take turns on a step, ranks of a stage read at the same time."""
    read = max(rank.weights + sequences * average * rank.kv_per_token for rank in needed.ranks)
    return sequences * gpu.bandwidth // (read * stages)


def _pool(free: int) -> int:
    share, whole = POOL_SHARE
    return free * share // whole


def _paged(tokens: int, page: int) -> int:
    """Tokens that a sequence occupies: its last page is its own."""
    return -(-tokens // page) * page


def _rank_needs(spec: BuildSpec, network: Planned, rank: Rank) -> RankNeeds:
    config, width = network.config, _element(spec).dtype.itemsize
    cached = 1 if spec.quantization and spec.quantization.kv_cache else width
    layers = len(rank.layout.layers(config.num_hidden_layers))
    kv_heads = len(rank.layout.kv_heads(config.num_key_value_heads))
    return RankNeeds(
        weights=rank.sizes.data if spec.target.compiles_plans else rank.sizes.proof,
        adapters=rank.sizes.adapters * width,
        activations=_activations(spec, network, rank, width),
        kv_per_token=2 * layers * kv_heads * config.head_dim * cached,
    )


def _activations(spec: BuildSpec, network: Planned, rank: Rank, width: int) -> int:
    """The larger of a prefill and a decode step, as the paged function's body computes them."""
    longest = network.shapes.max_sequence_length
    chunk = min(spec.tensorrt.prefill_chunk if spec.tensorrt else PREFILL_CHUNK, longest)
    steps = ((1, chunk), (network.shapes.max_batch_size, 1))
    fused = spec.target.compiles_plans
    return max(_step(network, rank, width, step, longest, fused=fused) for step in steps)


def _step(
    network: Planned, rank: Rank, width: int, step: tuple[int, int], longest: int, *, fused: bool
) -> int:
    """Rows between blocks, the widest block, a layer's gathered context, the mask, the logits.

    `step` is sequences and their new tokens, `longest` the tokens that each may have behind it.
    Where attention is not fused, the scores of a layer too, before and after their softmax.
    """
    config, (sequences, new) = network.config, step
    heads = rank.layout.heads(config.num_attention_heads, config.num_key_value_heads)
    attention = (2 * len(heads.query) + 2 * len(heads.kv)) * config.head_dim
    features = max(len(rank.layout.features(item)) for item in config.feed_forward_widths)
    rows = sequences * new * (2 * config.hidden_size + max(attention, 3 * features))
    context = 2 * sequences * longest * len(heads.kv) * config.head_dim
    mask = sequences * new * longest
    logits = sequences * config.vocab_size * 4 if rank.layout.is_last_stage else 0
    scores = 0 if fused else 2 * len(heads.query) * mask
    return (rows + context + mask + scores) * width + logits


def _element(spec: BuildSpec) -> ElementType:
    kinds = {Precision.FP16: ElementType.FLOAT16, Precision.BF16: ElementType.BFLOAT16}
    return kinds.get(spec.precision, ElementType.FLOAT32)
