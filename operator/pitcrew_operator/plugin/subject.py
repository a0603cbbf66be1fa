"""What a command is about: one LLMEngine or LLMDeployment, named as kubectl names things."""

from dataclasses import dataclass
from typing import Final

from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, Kind, Raw
from pitcrew_operator.plugin.kubectl import Kubectl, PluginError

_WORDS: Final = {
    "llmengine": ENGINE,
    "llmengines": ENGINE,
    "llme": ENGINE,
    "llmdeployment": DEPLOYMENT,
    "llmdeployments": DEPLOYMENT,
    "llmd": DEPLOYMENT,
}


@dataclass(frozen=True)
class Subject:
    """One of our resources."""

    kind: Kind
    raw: Raw

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Where it is."""
        return str(self.raw["metadata"]["namespace"])

    def __str__(self) -> str:
        return f"{self.kind.kind.lower()}/{self.name}"


def named(text: str, kubectl: Kubectl) -> Subject:
    """The resource of `llmengine/x`, `llmd/x` or, where one resource alone has that name, `x`.

    Raises PluginError for a word that is no kind of ours, for none and for two of that name.
    """
    word, slash, name = text.rpartition("/")
    if slash and word.split(".")[0].lower() not in _WORDS:
        known = "llmengine/NAME (llme) or llmdeployment/NAME (llmd)"
        raise PluginError(f"{text}: {word!r} is no kind of Pitcrew's; say {known}")
    kinds = (_WORDS[word.split(".")[0].lower()],) if slash else (ENGINE, DEPLOYMENT)
    found = [Subject(kind, raw) for kind in kinds if (raw := kubectl.find(kind, name)) is not None]
    if not found:
        what = " or ".join(kind.kind for kind in kinds)
        raise PluginError(f"there is no {what} {name} here; `kubectl pitcrew status` lists them")
    if len(found) > 1:
        raise PluginError(
            f"{name} is an LLMEngine and an LLMDeployment; say llme/{name} or llmd/{name}"
        )
    return found[0]


def of_kind(text: str, kind: Kind, kubectl: Kubectl) -> Subject:
    """The same, where only one kind makes sense. Raises PluginError for another."""
    subject = named(text if "/" in text else f"{kind.kind.lower()}/{text}", kubectl)
    if subject.kind is not kind:
        raise PluginError(f"{text}: name an {kind.kind}, as this is done to those alone")
    return subject
