"""What families of mixtures of experts check alike."""

from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.refusal import unsupported


def check_experts(config: DecoderConfig, chosen: int, experts: int) -> None:
    """Refuse a router that chooses more experts than there are."""
    if chosen > experts:
        raise unsupported(config, "num_experts_per_tok", chosen, f"1 to {experts}, all experts")
