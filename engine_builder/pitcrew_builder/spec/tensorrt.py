"""The options of TensorRT."""

from enum import StrEnum

from pydantic import Field

from pitcrew_builder.spec.base import Model


class ComputeCapability(StrEnum):
    """A generation of GPUs."""

    SM75 = "sm75"
    SM80 = "sm80"
    SM86 = "sm86"
    SM89 = "sm89"
    SM90 = "sm90"
    SM100 = "sm100"
    SM103 = "sm103"
    SM120 = "sm120"
    SM121 = "sm121"

    @property
    def number(self) -> int:
        """Such as 90."""
        return int(self.value.removeprefix("sm"))

    @property
    def has_fp8(self) -> bool:
        """Whether its cores know 8-bit floating point."""
        return self not in (type(self).SM75, type(self).SM80, type(self).SM86)


class Attention(StrEnum):
    """What computes attention in a plan."""

    OPERATORS = "operators"
    KERNEL = "kernel"


class Products(StrEnum):
    """What computes the products of rows and matrices in a plan, and its RMS norms."""

    OPERATORS = "operators"
    KERNEL = "kernel"


def _is_usual(choice: Attention | Products) -> bool:
    """Left out of documents then: older requests keep their exact text."""
    return choice in (Attention.OPERATORS, Products.OPERATORS)


class Verbosity(StrEnum):
    """How much a compiler says."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    VERBOSE = "verbose"


class TensorRtPlan(Model):
    """The options of TensorRT that decide what a plan is; they are part of the engine id."""

    compute_capability: ComputeCapability = Field(
        description="The GPUs that run the plan: sm89 for L4, L40S and RTX 40, sm90 for H100 and "
        "H200, sm100 for B200, sm120 for RTX 50 and RTX PRO."
    )
    prefill_chunk: int = Field(
        default=2048,
        ge=1,
        le=1 << 17,
        description="Tokens of one sequence in a prefill step at most; longer prompts take several "
        "steps. Memory for activations grows with it.",
    )
    attention: Attention = Field(
        default=Attention.OPERATORS,
        exclude_if=_is_usual,
        description="What computes attention: operators, whose kernels the compiler chooses after "
        "copying pages side by side, or Pitcrew's own kernel, which reads pages where they lie (target "
        "tensorrt, sm80 and later, caches in half precision, heads of 16 to 256 in steps of 16; "
        "elsewhere operators are kept).",
    )
    products: Products = Field(
        default=Products.OPERATORS,
        exclude_if=_is_usual,
        description="What multiplies with matrices and computes RMS norms: operators, whose kernels "
        "the compiler chooses by their measured times, or Pitcrew's own kernels, which give a row the "
        "same result in every batch of up to 128 rows (target tensorrt, sm80 and later, matrices in "
        "half precision with inputs in steps of 8; elsewhere operators are kept).",
    )
    optimization_level: int = Field(
        default=3, ge=0, le=5, description="How long the compiler searches for faster kernels."
    )
    workspace_mib: int | None = Field(
        default=None,
        ge=1,
        le=1 << 20,
        description="Scratch memory that kernels may ask for, in MiB. Default: all of the GPU's.",
    )


class TensorRt(TensorRtPlan):
    """How TensorRT compiles the plan."""

    timing_cache: bool = Field(
        default=True,
        description="Keep measured kernel times in the builder's cache for later builds.",
    )
    verbosity: Verbosity = Field(
        default=Verbosity.ERROR, description="What the compiler writes to the build's log."
    )

    @property
    def plan(self) -> TensorRtPlan:
        """The options that decide what the plan is."""
        return TensorRtPlan(**self.model_dump(include=set(TensorRtPlan.model_fields)))
