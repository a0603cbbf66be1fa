"""What plans want to know of the pods themselves, and what is answered.

A plan asks by an action; the answer is there in a later pass. Answers are kept by subject.
"""

from dataclasses import dataclass

from pitcrew_operator.plan.rollout.analysis import Evidence


@dataclass(frozen=True)
class ProveService:
    """Does a request through the Service reach pods of that engine, and come back with tokens?"""

    url: str
    """Of the Service."""
    revision: str
    engine_id: str

    @property
    def subject(self) -> str:
        """A new revision, or a new address, is asked anew."""
        return f"service {self.url} {self.revision}"


@dataclass(frozen=True)
class KeyPlace:
    """Where an API key of the pods is kept. Plans know the place and never the key."""

    namespace: str
    secret: str
    key: str


@dataclass(frozen=True)
class ComparePods:
    """How do the pods of a canary fare beside those of the stable revision?"""

    canary: tuple[str, ...]
    """Addresses such as http://10.0.0.3:8000; those of pods that serve."""
    stable: tuple[str, ...]
    revisions: tuple[str, str]
    """Of the canary and of the stable pods."""
    prompts: tuple[str, ...] = ()
    max_tokens: int = 0
    api_key: KeyPlace | None = None
    """None: the pods take prompts from anybody."""

    @property
    def subject(self) -> str:
        """One comparison for a whole rollout: what was seen at one step still counts at the next."""
        return f"pods {' '.join(self.revisions)}"


@dataclass(frozen=True)
class Proven:
    """What came of `ProveService`."""

    problem: str | None
    """None: an answer came from that engine."""
    tries: int = 1
    """How often it was asked."""


Question = ProveService | ComparePods
Answer = Proven | Evidence
