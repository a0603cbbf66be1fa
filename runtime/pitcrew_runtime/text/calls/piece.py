"""What is told of calls, and what reads them between their tags."""

import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

NewId = Callable[[], str]


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of one call. Its first part has the id and the name; the arguments are JSON text."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


def new_id() -> str:
    """Of a call."""
    return f"call_{secrets.token_hex(12)}"


def mistral_id() -> str:
    """Of a call, as Mistral's chat templates demand it when they are shown the call again."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


class CallText(ABC):
    """Reads calls character by character; nothing else may stand among them.

    A call is certain as soon as its name is known and its arguments have begun: from there on they
    are told as they come. What is not certain is held.
    """

    def __init__(self, first: int = 0, name_call: NewId = new_id) -> None:
        self.first = self.begun = first
        """The index of the first call, and of the next one."""
        self.whole = 0
        """Calls whose arguments are whole."""
        self.held = ""
        """What has come since the last of what is certain."""
        self._name_call = name_call
        self._pieces: list[CallPiece] = []

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Nothing is open, and something was called."""

    @abstractmethod
    def push(self, char: str) -> bool:
        """Take a character; False where calls cannot go on with it: what follows is something else."""

    def take(self) -> tuple[CallPiece, ...]:
        """The parts that have become certain since they were last taken."""
        taken, self._pieces = tuple(self._pieces), []
        return taken

    def _begin(self, name: str, arguments: str) -> None:
        """A call has become certain."""
        self._pieces.append(CallPiece(self.begun, arguments, self._name_call(), name))
        self.begun += 1

    def _go_on(self, arguments: str) -> None:
        """With the last call that began."""
        index = self.begun - 1
        if self._pieces and self._pieces[-1].index == index:
            last = self._pieces.pop()
            self._pieces.append(replace(last, arguments=last.arguments + arguments))
        else:
            self._pieces.append(CallPiece(index, arguments))


def pushed(calls: CallText, text: str) -> str:
    """What is left of a text from where calls cannot go on with it."""
    for place, char in enumerate(text):
        if not calls.push(char):
            return text[place:]
    return ""
