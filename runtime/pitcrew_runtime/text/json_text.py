"""One JSON value (RFC 8259) as it comes, character by character.

Tells of each character whether a value can go on with it, so what was taken is at any time the
beginning of a value or the whole. Nothing is kept but what is open, however long the value gets.
"""

from collections.abc import Callable, Mapping

BLANK = " \t\n\r"
_CLOSING = {"{": "}", "[": "]"}
_WORDS = {"t": "rue", "f": "alse", "n": "ull"}
_HEX = frozenset("0123456789abcdefABCDEF")


def _on(ways: Mapping[str, str]) -> dict[str, str]:
    return {char: state for chars, state in ways.items() for char in chars}


_DIGITS = "0123456789"
_NUMBER = {
    "start": _on({"-": "minus", "0": "zero", "123456789": "whole"}),
    "minus": _on({"0": "zero", "123456789": "whole"}),
    "zero": _on({".": "point", "eE": "exponent"}),
    "whole": _on({_DIGITS: "whole", ".": "point", "eE": "exponent"}),
    "point": _on({_DIGITS: "fraction"}),
    "fraction": _on({_DIGITS: "fraction", "eE": "exponent"}),
    "exponent": _on({"+-": "sign", _DIGITS: "power"}),
    "sign": _on({_DIGITS: "power"}),
    "power": _on({_DIGITS: "power"}),
}
"""From what is known of a number, by the next character."""
_ENDINGS = frozenset({"zero", "whole", "fraction", "power"})


class JsonText:
    """The state between two characters."""

    def __init__(self) -> None:
        self._take: Callable[[str], bool] = self._value
        self._open: list[str] = []
        self._is_key = False
        self._left = 0
        """Hexadecimal digits that an escape still needs."""
        self._word = ""
        """The rest of a word that has begun."""
        self._number = "start"
        self.in_string = False

    @property
    def depth(self) -> int:
        """Objects and arrays that are open."""
        return len(self._open)

    def push(self, char: str) -> bool:
        """Take a character; False, and nothing changes, where no value goes on with it."""
        return self._take(char)

    def _value(self, char: str) -> bool:
        if char in BLANK:
            return True
        if char == '"':
            self._enter_string(is_key=False)
        elif char in _CLOSING:
            self._open.append(_CLOSING[char])
            self._take = self._first_key if char == "{" else self._first_item
        elif char in _WORDS:
            self._word, self._take = _WORDS[char], self._in_word
        elif char in _NUMBER["start"]:
            self._number, self._take = _NUMBER["start"][char], self._in_number
        else:
            return False
        return True

    def _first_item(self, char: str) -> bool:
        return self._after(char) if char == "]" else self._value(char)

    def _first_key(self, char: str) -> bool:
        return self._after(char) if char == "}" else self._key(char)

    def _key(self, char: str) -> bool:
        if char == '"':
            self._enter_string(is_key=True)
        return char == '"' or char in BLANK

    def _colon(self, char: str) -> bool:
        if char == ":":
            self._take = self._value
        return char == ":" or char in BLANK

    def _after(self, char: str) -> bool:
        """Behind a value."""
        if char in BLANK:
            return True
        if not self._open or char not in (",", self._open[-1]):
            return False
        if char == ",":
            self._take = self._key if self._open[-1] == "}" else self._value
        else:
            self._open.pop()
            self._take = self._after
        return True

    def _enter_string(self, *, is_key: bool) -> None:
        self.in_string, self._is_key, self._take = True, is_key, self._in_string

    def _in_string(self, char: str) -> bool:
        if char == '"':
            self.in_string = False
            self._take = self._colon if self._is_key else self._after
        elif char == "\\":
            self._take = self._escape
        return char >= " "

    def _escape(self, char: str) -> bool:
        if char not in '"\\/bfnrtu':
            return False
        self._left = 4
        self._take = self._code if char == "u" else self._in_string
        return True

    def _code(self, char: str) -> bool:
        if char not in _HEX:
            return False
        self._left -= 1
        if not self._left:
            self._take = self._in_string
        return True

    def _in_word(self, char: str) -> bool:
        if char != self._word[0]:
            return False
        self._word = self._word[1:]
        if not self._word:
            self._take = self._after
        return True

    def _in_number(self, char: str) -> bool:
        following = _NUMBER[self._number].get(char)
        if following is not None:
            self._number = following
            return True
        return self._number in _ENDINGS and self._after(char)
