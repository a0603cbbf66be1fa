"""From the rotary keys of a config to a rotation."""

from pitcrew_builder.blocks.rope import Rope
from pitcrew_builder.blocks.rope_scaling import (
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    ProportionalScaling,
    Scaling,
    YarnScaling,
    longrope_attention_factor,
    yarn_attention_factor,
)
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.checkpoint.rope import LONGROPE, RopeParameters
from pitcrew_builder.families.refusal import require, unsupported

KNOWN = "default, linear, dynamic, llama3, yarn, proportional, longrope"


def rope(config: DecoderConfig, length: int) -> Rope:
    """The rotation of whole heads that a config describes, for texts of up to `length` tokens."""
    given = config.rope_parameters
    # The models' own code does not look at the part in a default rotation.
    if given.rope_type not in ("default", "proportional"):
        require(config, "rope_parameters.partial_rotary_factor", given.partial_rotary_factor, 1.0)
    return rope_of(config, given, config.head_dim, length)


def rope_of(config: DecoderConfig, given: RopeParameters, dim: int, length: int) -> Rope:
    """The rotation of the first `dim` elements of a head that `given` describes."""
    original = given.original_max_position_embeddings or config.max_position_embeddings
    if given.rope_type == LONGROPE:
        short = _longrope(config, given, original, dim, "short_factor")
        long = _longrope(config, given, original, dim, "long_factor")
        if length <= original:
            return Rope(dim, given.rope_theta, short)
        return Rope(dim, given.rope_theta, long, short)
    if given.rope_type == "proportional":
        if dim != config.head_dim:
            raise unsupported(
                config, "rope_parameters.rope_type", given.rope_type, "default, longrope"
            )
        turned = int(given.partial_rotary_factor * dim // 2)
        return Rope(dim, given.rope_theta, ProportionalScaling(turned, given.factor or 1.0))
    return Rope(dim, given.rope_theta, _scaling(config, given, original))


def _scaling(config: DecoderConfig, given: RopeParameters, original: int) -> Scaling | None:
    match given.rope_type:
        case "default" | "dynamic":
            # Dynamic scaling begins beyond max_position_embeddings, where no engine goes.
            return None
        case "linear":
            return LinearScaling(_factor(config, given))
        case "llama3":
            return Llama3Scaling(
                _factor(config, given), given.low_freq_factor, given.high_freq_factor, original
            )
        case "yarn":
            return _yarn(config, given, original)
    raise unsupported(config, "rope_parameters.rope_type", given.rope_type, KNOWN)


def _factor(config: DecoderConfig, given: RopeParameters) -> float:
    if given.factor is None:
        raise unsupported(config, "rope_parameters.factor", None, "a number above 0")
    return given.factor


def _yarn(config: DecoderConfig, given: RopeParameters, original: int) -> YarnScaling:
    factor = given.factor or config.max_position_embeddings / original
    stated = given.attention_factor
    return YarnScaling(
        factor,
        original,
        stated or yarn_attention_factor(factor, given.mscale, given.mscale_all_dim),
        given.beta_fast or 32.0,
        given.beta_slow or 1.0,
        given.truncate,
    )


def _longrope(
    config: DecoderConfig, given: RopeParameters, original: int, dim: int, name: str
) -> FactorScaling:
    """One of the two sets of factors."""
    factor = given.factor or config.max_position_embeddings / original
    factors: tuple[float, ...] = getattr(given, name)
    if len(factors) != dim // 2:
        raise unsupported(config, f"rope_parameters.{name}", factors, f"{dim // 2} numbers")
    stated = given.attention_factor
    return FactorScaling(factors, stated or longrope_attention_factor(factor, original))
