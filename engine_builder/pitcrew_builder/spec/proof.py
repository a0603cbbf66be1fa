"""Prompts of the users, and what an engine must show on them before it is published."""

from pydantic import Field, model_validator

from pitcrew_builder.spec.base import Model


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
        description="Prompts to use at most. Default: 128 to calibrate, 64 to prove.",
    )

    @model_validator(mode="after")
    def _exactly_one_place(self) -> "Prompts":
        if (self.path is None) == (self.url is None):
            raise ValueError("prompts: give exactly one of path and url")
        return self


_DECIMAL = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"


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
