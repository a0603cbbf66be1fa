"""The prompts of one build: read before anything is decided, since they are part of its identity."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pitcrew_builder.prompts.choice import Chosen, choose
from pitcrew_builder.prompts.source import Prompt, PromptFile, read
from pitcrew_builder.spec import BuildSpec

NOTHING = Chosen((), ())
CALIBRATING, PROVING = 128, 64
"""Prompts that are used where the spec does not say."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Prompts to calibrate on and prompts to prove with; both empty where nobody asked."""

    chosen: Chosen = NOTHING
    calibration: PromptFile | None = None

    @property
    def calibration_sha256(self) -> str | None:
        """Digest of the prompts that are calibrated on."""
        return _digest(self.chosen.calibration)

    @property
    def proof_sha256(self) -> str | None:
        """Digest of the held-out prompts."""
        return _digest(self.chosen.proof)


def gather(spec: BuildSpec) -> Evidence:
    """Read what the spec names. Raises `BuildError`: unreadable, malformed or empty."""
    calibration = spec.quantization.calibration if spec.quantization else None
    proof = spec.proof.prompts if spec.proof else None
    if calibration is None and proof is None:
        return Evidence()
    read_calibration = read(calibration, "quantization.calibration") if calibration else None
    read_proof = read(proof, "proof.prompts") if proof else None
    chosen = choose(
        read_calibration,
        read_proof,
        (calibration and calibration.samples) or CALIBRATING,
        (proof and proof.samples) or PROVING,
    )
    return Evidence(chosen, read_calibration)


def _digest(prompts: Sequence[Prompt]) -> str | None:
    if not prompts:
        return None
    return hashlib.sha256("".join(prompt.digest for prompt in prompts).encode()).hexdigest()
