"""What is made narrow in a build: what the spec asks for, or what the checkpoint already is."""

from pitcrew_builder.checkpoint.scheme import Floats8, Scheme
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.manifest import ImportedCodes, QuantizationRecipe
from pitcrew_builder.spec import BuildSpec, HeadFormat, QuantizationMethod, WeightFormat

_METHODS = {"awq": QuantizationMethod.AWQ, "gptq": QuantizationMethod.GPTQ}
_INTEGERS = {4: WeightFormat.INT4, 8: WeightFormat.INT8}


def recipe_of(
    spec: BuildSpec, scheme: Scheme | None, calibration_sha256: str | None = None
) -> QuantizationRecipe | None:
    """The recipe; None where nothing is narrow.

    Raises `InvalidSpec` where the spec would change a checkpoint's codes.
    """
    wanted = spec.quantization
    if wanted is None and scheme is None:
        return None
    asked = QuantizationRecipe(
        weights=wanted.weights if wanted else None,
        method=wanted.chosen_method if wanted else None,
        block_size=wanted.block_size if wanted else 0,
        head=_head(spec),
        kv_cache=wanted.kv_cache if wanted else None,
        calibration_sha256=calibration_sha256 if wanted and wanted.needs_calibration else None,
    )
    if scheme is None:
        return asked
    _check_untouched(spec, scheme)
    codes = _codes(scheme)
    update = {
        "weights": _weights(scheme),
        "method": _METHODS.get(scheme.method, QuantizationMethod.ROUND),
        "block_size": codes.group_size or 0,
        "imported": codes,
    }
    return asked.model_copy(update=update)


def _head(spec: BuildSpec) -> WeightFormat | None:
    """CPUs read it for every token, and it is the widest matrix."""
    wanted = spec.quantization
    if wanted is None or not wanted.has_integers:
        return None
    if wanted.head is None:
        return None if spec.target.compiles_plans else WeightFormat.INT8
    return WeightFormat.INT8 if wanted.head is HeadFormat.INT8 else None


def _weights(scheme: Scheme) -> WeightFormat:
    form = scheme.form
    return WeightFormat.FP8 if isinstance(form, Floats8) else _INTEGERS[form.bits]


def _codes(scheme: Scheme) -> ImportedCodes:
    form = scheme.form
    if isinstance(form, Floats8):
        group = None if form.block is None else form.block[1]
        return ImportedCodes(
            method=scheme.method, bits=8, group_size=group, zero_points=False, act_order=False
        )
    return ImportedCodes(
        method=scheme.method,
        bits=form.bits,
        group_size=form.group,
        zero_points=form.zeros,
        act_order=form.ordered,
    )


def _check_untouched(spec: BuildSpec, scheme: Scheme) -> None:
    if spec.quantization is not None and spec.quantization.weights is not None:
        raise InvalidSpec(
            f"quantization.weights is {spec.quantization.weights}, and the checkpoint comes "
            f"quantized already ({scheme.method}); leave weights out to keep its codes, or take the "
            f"unquantized checkpoint"
        )
    if spec.adapters:
        raise InvalidSpec(
            f"adapters cannot be merged into the codes of a checkpoint that comes quantized "
            f"({scheme.method}); serve them beside it with lora, or merge them into the "
            f"unquantized checkpoint"
        )
