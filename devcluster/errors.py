"""What can go wrong, each with a message that says what to do next.

DevclusterError
├── CommandError    a program that the cluster needs ended with an error
├── PreflightError  this machine cannot carry the cluster
└── NotRunning      the command needs a running cluster
"""

from collections.abc import Sequence

KIND = (
    "Any other cluster serves as well: `kind create cluster`, then install the Helm chart into it."
)


class DevclusterError(Exception):
    """The root: the message is printed as it is and the exit code is 1."""


class CommandError(DevclusterError):
    """A program ended with an error; the message carries the end of what it said."""

    def __init__(self, command: Sequence[str], code: int, tail: str) -> None:
        self.code = code
        self.tail = tail
        super().__init__(f"`{' '.join(command)[:200]}` ended with exit code {code}:\n{tail}")


class PreflightError(DevclusterError):
    """This machine lacks something; every problem is one line with its remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"this machine cannot carry the devcluster:\n{lines}\n{KIND}")


class NotRunning(DevclusterError):
    """The command needs a running cluster."""

    def __init__(self, name: str) -> None:
        super().__init__(f"cluster {name} is not running; start it: python3 -m devcluster up")
