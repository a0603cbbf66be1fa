"""What a script of facts prints."""

import platform
import sys


class Fact:
    """Says one thing a line, and whether all that was checked held."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failed = 0
        print(f"== {name} (Python {platform.python_version()})", flush=True)

    def say(self, what: str, value: object) -> None:
        """An observation."""
        print(f"   {what}: {value}", flush=True)

    def check(self, what: str, holds: bool) -> None:
        """An expectation."""
        self._failed += not holds
        print(f"   {'yes' if holds else 'NO '} {what}", flush=True)

    def end(self) -> None:
        """Exit with 1 if something did not hold."""
        print(f"-- {self._name}: {'holds' if not self._failed else 'does not hold'}", flush=True)
        sys.exit(bool(self._failed))
