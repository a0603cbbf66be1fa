"""When an engine may be built again, and which of its versions are kept.

The rules are about changes that come from outside: a branch that moved, another builder image, other
drivers. A change of the spec itself is its author's own word and is built at once.
"""

from enum import StrEnum
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import Rule, cel


class RebuildMode(StrEnum):
    """When a change from outside is built."""

    AUTO = "Auto"
    MANUAL = "Manual"
    WINDOW = "Window"


class Superseded(StrEnum):
    """What becomes of a running build that a change from outside made old."""

    FINISH = "Finish"
    CANCEL = "Cancel"


class Day(StrEnum):
    """A day of the week."""

    MON = "Mon"
    TUE = "Tue"
    WED = "Wed"
    THU = "Thu"
    FRI = "Fri"
    SAT = "Sat"
    SUN = "Sun"


_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


class Window(Model):
    """Hours in which builds may begin. One that began goes on after them."""

    start: str = Field(pattern=_TIME, max_length=5, description="UTC, such as 22:00.")
    end: str = Field(
        pattern=_TIME,
        max_length=5,
        description="UTC, such as 06:00; at or before start: on the next day.",
    )
    days: tuple[Day, ...] = Field(
        default=(),
        max_length=7,
        description="Days on which the window opens, such as Sat. Default: every day.",
    )


class RebuildPolicy(Model):
    """When changes from outside are noticed and built."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="(self.mode == 'Window') == has(self.window)",
                message="rebuildPolicy: mode Window needs window, and no other mode has one",
            )
        )
    )

    mode: RebuildMode = Field(
        default=RebuildMode.AUTO,
        description="Auto: at once. Manual: when trigger changes. Window: in these hours.",
    )
    window: Window | None = Field(default=None, description="The hours of mode Window.")
    trigger: str = Field(
        default="",
        max_length=63,
        description="Any other text than before: look at the checkpoint now, build what changed, "
        "and try again what failed.",
    )
    poll_seconds: int = Field(
        default=3600,
        ge=0,
        le=604800,
        description="How often to look whether the checkpoint has moved; 0: never. A revision that "
        "is a commit cannot move and is not looked at.",
    )
    superseded: Superseded = Field(
        default=Superseded.FINISH,
        description="A running build that a change from outside made old: Finish or Cancel.",
    )

    @model_validator(mode="after")
    def _has_its_window(self) -> Self:
        if (self.mode is RebuildMode.WINDOW) != (self.window is not None):
            raise ValueError(
                f"rebuildPolicy: mode is {self.mode}, and window is "
                f"{'given' if self.window else 'missing'}; mode Window needs window, and no other "
                f"mode has one"
            )
        return self
