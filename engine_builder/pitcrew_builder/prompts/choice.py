"""Which prompts calibrate and which prove: never the same ones."""

from collections import Counter
from dataclasses import dataclass

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.prompts.source import Prompt, PromptFile

HELD_OUT = 5
"""One prompt in so many proves, where a single file has to serve both ends."""

FEW_TOKENS = 4096
REPEATED = 0.1
COVERED = 0.9


@dataclass(frozen=True, slots=True)
class Chosen:
    """Prompts for both ends, without overlap."""

    calibration: tuple[Prompt, ...]
    proof: tuple[Prompt, ...]


def choose(
    calibration: PromptFile | None, proof: PromptFile | None, calibrating: int, proving: int
) -> Chosen:
    """At most `calibrating` and `proving` prompts. One file alone is divided four to one.

    Raises `InvalidSpec` where nothing is left for one of the ends.
    """
    if calibration is None:
        return Chosen((), proof.prompts[:proving] if proof else ())
    if proof is None:
        return _divide(calibration, calibrating, proving)
    held = {prompt.digest for prompt in proof.prompts[:proving]}
    rest = [prompt for prompt in calibration.prompts if prompt.digest not in held]
    if not rest:
        raise InvalidSpec(
            f"quantization.calibration: every prompt of {calibration.where} is one of "
            f"{proof.where}, which has to prove the result; give texts of their own to each"
        )
    return Chosen(tuple(rest[:calibrating]), proof.prompts[:proving])


def _divide(file: PromptFile, calibrating: int, proving: int) -> Chosen:
    count = len(file.prompts)
    if count < 2:
        raise InvalidSpec(
            f"quantization.calibration: {file.where} holds one prompt, and a part of it must be "
            f"held out to prove the result; give more, or set proof.prompts"
        )
    held = min(proving, max(1, count // HELD_OUT))
    return Chosen(file.prompts[held:][:calibrating], file.prompts[:held])


def warnings(
    file: PromptFile, calibration: list[list[int]], proof: list[list[int]]
) -> tuple[str, ...]:
    """What makes calibration text doubtful, each with its figure.

    Generic text shows itself by coverage: the share of the held-out prompts' tokens that the
    calibration text has at all. A user's own prompts speak the words of the prompts to come.
    """
    known, seen = Counter(t for ids in calibration for t in ids), [t for ids in proof for t in ids]
    covered = sum(token in known for token in seen) / max(1, len(seen))
    total = known.total()
    told = []
    if covered < COVERED:
        told.append(
            f"calibration text looks generic: {covered:.0%} of the held-out prompts' tokens occur "
            f"in it ({COVERED:.0%} expected); calibrate on your own users' prompts"
        )
    if total < FEW_TOKENS:
        told.append(f"calibration text is short: {total} tokens ({FEW_TOKENS} expected); add more")
    if file.repeated > REPEATED:
        told.append(f"{file.repeated:.0%} of the calibration file's lines repeat others")
    return tuple(told)
