"""What kopf would remember of every object, left empty: only events are followed here.

Left alone, kopf copies each object of each event twice, deeply, to compare it with what was handled
last, and no handler of ours asks for that. The copies were a quarter of the operator's computing.
"""

import kopf


class NothingHandled(kopf.DiffBaseStorage):
    """No object has a state that was handled."""

    def build(self, **_: object) -> kopf.BodyEssence:
        """The essence of every object: none."""
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> kopf.BodyEssence | None:
        """Nothing was handled before."""
        return None

    def store(self, **_: object) -> None:
        """Nothing is kept."""


class NothingUnderWay(kopf.ProgressStorage):
    """No handler is repeated or resumed."""

    def fetch(self, **_: object) -> kopf.ProgressRecord | None:
        """No handler has begun."""
        return None

    def store(self, **_: object) -> None:
        """Nothing is kept."""

    def purge(self, **_: object) -> None:
        """Nothing was kept."""

    def touch(self, **_: object) -> None:
        """Nothing is due."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """There is nothing of ours in it."""
        return essence
