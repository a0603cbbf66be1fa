"""The prompts of one build: read before anything is decided, since they are part of its identity."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pitcrew_builder.prompts.choice import Chosen, choose
from pitcrew_builder.prompts.questions import Paper, read_paper
from pitcrew_builder.prompts.source import Prompt, PromptFile, read
from pitcrew_builder.spec import BuildSpec, Task

NOTHING = Chosen((), ())
CALIBRATING, PROVING = 128, 64
"""Prompts that are used where the spec does not say."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Prompts to calibrate on and prompts to prove with; both empty where nobody asked."""

    chosen: Chosen = NOTHING
    calibration: PromptFile | None = None
    tasks: tuple[Paper, ...] = ()

    @property
    def calibration_sha256(self) -> str | None:
        """Digest of the prompts that are calibrated on."""
        return _digest(self.chosen.calibration)

    @property
    def proof_sha256(self) -> str | None:
        """Digest of the held-out prompts."""
        return _digest(self.chosen.proof)

    @property
    def tasks_sha256(self) -> str | None:
        """Digest of the tasks' questions and rules."""
        return _digest(self.tasks)


def gather(spec: BuildSpec) -> Evidence:
    """Read what the spec names. Raises `BuildError`: unreadable, malformed or empty."""
    calibration = spec.quantization.calibration if spec.quantization else None
    proof = spec.proof.prompts if spec.proof else None
    tasks = _tasks(spec.proof.tasks) if spec.proof else ()
    if calibration is None and proof is None:
        return Evidence(tasks=tasks)
    read_calibration = read(calibration, "quantization.calibration") if calibration else None
    read_proof = read(proof, "proof.prompts") if proof else None
    chosen = choose(
        read_calibration,
        read_proof,
        (calibration and calibration.samples) or CALIBRATING,
        (proof and proof.samples) or PROVING,
    )
    return Evidence(chosen, read_calibration, tasks)


def _tasks(tasks: Sequence[Task]) -> tuple[Paper, ...]:
    return tuple(
        read_paper(task, f"proof.tasks[{index}].prompts") for index, task in enumerate(tasks)
    )


def _digest(parts: Sequence[Prompt] | Sequence[Paper]) -> str | None:
    if not parts:
        return None
    return hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
