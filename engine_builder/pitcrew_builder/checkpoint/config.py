"""`config.json` of a decoder, as transformers 4 and 5 write it. Unknown keys are ignored."""

import json
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from pitcrew_builder.checkpoint.rope import LONGROPE, RopeParameters, rope_document
from pitcrew_builder.checkpoint.tolerant import Tolerant
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.validation import problems


class Envelope(Tolerant):
    """What decides whether and how the rest is read."""

    model_type: str = ""
    auto_map: dict[str, Any] | None = None


class DecoderConfig(Tolerant):
    """The keys that decoder families share. Families subclass it for their defaults."""

    default_theta: ClassVar[float] = 10000.0
    """The base of rotations where the config gives none."""

    model_type: str
    hidden_size: int = Field(gt=0, le=1 << 17)
    intermediate_size: int = Field(gt=0, le=1 << 19)
    num_hidden_layers: int = Field(gt=0, le=1024)
    num_attention_heads: int = Field(gt=0, le=1024)
    num_key_value_heads: int = Field(gt=0, le=1024)
    head_dim: int = Field(gt=0, le=1024, multiple_of=2)
    vocab_size: int = Field(gt=1, le=1 << 22)
    max_position_embeddings: int = Field(default=2048, gt=1)
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters = RopeParameters()
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def short_length(self, length: int) -> int:
        """Tokens of the longest text that is rotated otherwise than those of up to `length`; 0 where
        all are rotated alike.
        """
        rope = self.rope_parameters
        original = rope.original_max_position_embeddings or self.max_position_embeddings
        return original if rope.rope_type == LONGROPE and length > original else 0

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Derive the sizes that a config may leave out, and read the older rope keys."""
        known = {key: value for key, value in raw.items() if value is not None or cls._means(key)}
        heads, hidden = known.get("num_attention_heads"), known.get("hidden_size")
        if isinstance(heads, int):
            if "num_key_value_heads" in raw or cls._requires("num_key_value_heads"):
                known.setdefault("num_key_value_heads", heads)
            if isinstance(hidden, int) and heads > 0 and cls._requires("head_dim"):
                known.setdefault("head_dim", hidden // heads)
        known["rope_parameters"] = cls._rope(known)
        return known

    @classmethod
    def _rope(cls, known: dict[str, Any]) -> dict[str, Any]:
        return rope_document(known, cls.default_theta)

    @classmethod
    def _requires(cls, key: str) -> bool:
        """Whether the family has no size of its own for a config that leaves the key out."""
        return cls.model_fields[key].is_required()

    @classmethod
    def _means(cls, key: str) -> bool:
        """Whether null is a value of that key (no window, say), and not the lack of one."""
        field = cls.model_fields.get(key)
        return field is not None and type(None) in get_args(field.annotation)

    @model_validator(mode="after")
    def _heads_divide(self) -> "DecoderConfig":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is no multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        return self

    @property
    def experts(self) -> int:
        """Experts of each mixture; 0 where there is none."""
        return 0

    @property
    def feed_forward_widths(self) -> tuple[int, ...]:
        """The inner widths of all kinds of feed-forward blocks."""
        return (self.intermediate_size,)


class GenerationConfig(Tolerant):
    """The part of `generation_config.json` that ends a text."""

    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None


Document = TypeVar("Document", bound=BaseModel)


def parse_object(text: bytes, file: str) -> dict[str, Any]:
    """A JSON object, or `CheckpointCorrupt` that names the file."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"{file} is not JSON: {error}; download it again") from None
    if not isinstance(document, dict):
        raise CheckpointCorrupt(f"{file} holds no JSON object; download it again")
    return document


def parse_as(kind: type[Document], raw: dict[str, Any], file: str) -> Document:
    """Validate against `kind`, or `CheckpointCorrupt` that names every bad field."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        told = problems(error)
        raise CheckpointCorrupt(f"{file}: {told}; compare it with the published one") from None
