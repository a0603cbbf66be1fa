"""Keys of object storage that are not the environment's usual ones.

Checkpoint and engines may lie with two owners, and the AWS SDK knows one set of variables. A prefix
names a second set, such as `PITCREW_STORE_AWS_ACCESS_KEY_ID`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys by the names that the SDK gives them; None leaves the choice to the SDK."""

    aws_access_key_id: str | None = None
    aws_secret_access_key: str | None = None
    aws_session_token: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str], prefix: str) -> Self:
        """What the environment holds under a prefix. An empty variable is none."""
        return cls(*(environment.get(prefix + name.upper()) or None for name in cls.__slots__))

    def arguments(self) -> dict[str, str | None]:
        """As the SDK takes them."""
        return asdict(self)
