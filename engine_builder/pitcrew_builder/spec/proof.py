"""Prompts of the users, and what an engine must show on them before it is published."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from pitcrew_builder.spec.base import Model, is_empty


class Prompts(Model):
    """Prompts of the users: JSON lines, each with `text`, `prompt` or `messages`."""

    path: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="A file, as the builder sees it: on a volume or a mounted ConfigMap.",
    )
    url: str | None = Field(
        default=None,
        max_length=1024,
        pattern=r"^https?://",
        description="An address that answers with the file.",
    )
    samples: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Prompts to use at most. Default: 128 to calibrate, 64 to prove or for a task.",
    )

    @model_validator(mode="after")
    def _exactly_one_place(self) -> "Prompts":
        if (self.path is None) == (self.url is None):
            raise ValueError("prompts: give exactly one of path and url")
        return self


_DECIMAL = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"


class TaskMetric(StrEnum):
    """How answers are compared with references."""

    EXACT_MATCH = "exact-match"
    BLEU = "bleu"
    WER = "wer"

    @property
    def falls(self) -> bool:
        """Whether less is better."""
        return self is TaskMetric.WER


class Task(Model):
    """Questions of the users with the answers they expect, and how well the engine must do.

    Scores are percentages. Of exact-match and bleu more is better, of wer less.
    """

    metric: TaskMetric = Field(
        description="exact-match: whole answers, as SQuAD compares them. bleu: overlap of phrases. "
        "wer: words that are wrong."
    )
    prompts: Prompts = Field(
        description="JSON lines, each with `prompt` or `messages`, and `reference` or `references`."
    )
    max_tokens: int = Field(
        default=64, ge=1, le=1024, description="Tokens of an answer at most; decoding is greedy."
    )
    stop: tuple[Annotated[str, Field(min_length=1, max_length=32)], ...] = Field(
        default=(), max_length=4, description="Texts that an answer ends before."
    )
    threshold: str | None = Field(
        default=None,
        pattern=_DECIMAL,
        max_length=13,
        description="Score that must be reached: at least this, or for wer at most this.",
    )
    max_regression: str = Field(
        default="5",
        pattern=_DECIMAL,
        max_length=13,
        description="How much worse than the unquantized network's the score may be, in points.",
    )


class Proof(Model):
    """What the engine must show on held-out prompts before it is published.

    Perplexity may rise by the larger of its two allowances, over the same network unquantized.
    """

    prompts: Prompts | None = Field(
        default=None,
        description="Held-out prompts. Default: one in five of the calibration prompts, which are "
        "then not calibrated on.",
    )
    max_perplexity_increase: str = Field(
        default="0.5",
        pattern=_DECIMAL,
        max_length=13,
        description="Allowed rise of perplexity, absolute.",
    )
    max_perplexity_increase_percent: str = Field(
        default="2",
        pattern=_DECIMAL,
        max_length=13,
        description="Allowed rise of perplexity, relative.",
    )
    min_top1_agreement: str | None = Field(
        default=None,
        pattern=_DECIMAL,
        max_length=13,
        description="Least share (0 to 1) of positions with the same likeliest token.",
    )
    max_kl_divergence: str | None = Field(
        default=None,
        pattern=_DECIMAL,
        max_length=13,
        description="Most nats per token that the predicted distribution may move.",
    )
    tasks: tuple[Task, ...] = Field(
        default=(),
        max_length=8,
        exclude_if=is_empty,
        description="Questions with answers that the engine must do well on, too.",
    )
