"""The machines that a plan is tuned on."""

from pydantic import Field

from pitcrew_builder.spec.base import Model


class Platform(Model):
    """The GPU and the driver that kernels are measured on; part of the engine id."""

    gpu_product: str = Field(
        min_length=1, max_length=63, description="As nodes tell it, such as NVIDIA-H100-80GB-HBM3."
    )
    driver: str = Field(min_length=1, max_length=16, description="Branch of the driver: 580.")
    cuda: str = Field(
        min_length=1, max_length=16, description="Newest CUDA that the driver knows: 13.0."
    )
