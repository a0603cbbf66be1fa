"""Messages that are calls and nothing else."""

from pitcrew_runtime.text.calls.json_calls import JsonCalls
from pitcrew_runtime.text.calls.piece import CallPiece, NewId, new_id, pushed
from pitcrew_runtime.text.json_text import BLANK
from pitcrew_runtime.text.reading import Read, Reader, limited


class MessageCalls(Reader):
    """A message that is nothing but calls: Llama 3's objects with `;` between, or an array."""

    def __init__(self, parallel: bool = True, name_call: NewId = new_id) -> None:
        self.called = False
        self._parallel = parallel
        self._calls = JsonCalls(0, name_call)
        self._is_text = False

    def feed(self, text: str) -> Read:
        """See `Reader`."""
        if self._is_text:
            return Read(text)
        rest = pushed(self._calls, text)
        read = Read("", self._calls.take())
        self.called |= bool(self._calls.whole)
        if rest:
            self._is_text = True
            read = Read(self._calls.held + rest, read.calls)
        return limited(read, self._parallel)

    def flush(self) -> Read:
        """See `Reader`."""
        if self._is_text or (self._calls.complete and not self._calls.held.strip(BLANK + ";")):
            return Read()
        return Read(self._calls.held)


class OneCall(Reader):
    """The text is the arguments of a function that was chosen already."""

    def __init__(self, name: str, name_call: NewId = new_id) -> None:
        self._name = name
        self._name_call = name_call
        self._begun = False

    def feed(self, text: str) -> Read:
        """See `Reader`."""
        if not text:
            return Read()
        if self._begun:
            return Read("", (CallPiece(0, text),))
        self._begun = True
        return Read("", (CallPiece(0, text, self._name_call(), self._name),))

    def flush(self) -> Read:
        """See `Reader`."""
        return Read()
