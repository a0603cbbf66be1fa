"""What was measured of an engine before it was published."""

from pydantic import Field

from pitcrew_builder.spec import Model, TaskMetric
from pitcrew_builder.spec.base import is_empty, is_false


class Canary(Model):
    """A prompt and its greedy continuation on the engine as built; a warm runtime must agree."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


class Score(Model):
    """The engine beside its reference on the same held-out text, in one shape."""

    batch: int = Field(description="Sequences of one step.")
    capacity: int = Field(description="Tokens that the page table had room for.")
    long: bool = Field(
        default=False,
        exclude_if=is_false,
        description="Texts were rotated as those beyond `shortTexts.upTo` are, whatever their length.",
    )
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
    served: tuple[Score, ...] = Field(
        default=(),
        exclude_if=is_empty,
        description="Decoding in the form `contiguous` of the graph, token by token; the reference "
        "is the graph that `scores` are of. Empty where that form does not exist.",
    )
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
