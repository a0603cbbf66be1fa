"""What the heart knows of a constraint on the text: which tokens may follow those there are.

A guide is asked about a whole continuation each time and keeps no record that a step could spoil: a
retry, a preemption or a rejected draft only asks again. It is asked on the engine's thread alone.
"""

from collections.abc import Sequence
from typing import Protocol


class Guide(Protocol):
    """A constraint on the tokens of one sequence."""

    def allowed(self, generated: Sequence[int]) -> bytes:
        """The tokens that may follow `generated`: one bit for each id, lowest bit first.

        Ids beyond the last bit may not follow. Never raises: where the constraint cannot be followed
        further, only the tokens that end a text are allowed, and `fault` tells why.
        """
        ...

    @property
    def fault(self) -> str | None:
        """Why the constraint was given up; None while it holds."""
        ...
