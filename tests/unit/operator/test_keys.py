"""Keys of pods, out of the Secrets that deployments name: what is read, and what is told where it is not."""

import base64

import pytest

from pitcrew_operator.ask.http import NoAnswer
from pitcrew_operator.ask.keys import SecretKeys
from pitcrew_operator.errors import Rejected, Unavailable
from pitcrew_operator.kinds import SECRET, Kind, Raw
from pitcrew_operator.plan.questions import KeyPlace

PLACE = KeyPlace("models", "chat-keys", "keys")


class Holding:
    """Has one Secret, or an error in its place."""

    def __init__(self, text: bytes | None = None, error: Exception | None = None) -> None:
        self._text, self._error = text, error

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        assert (kind, namespace, name) == (SECRET, "models", "chat-keys")
        if self._error is not None:
            raise self._error
        if self._text is None:
            return None
        return {"data": {"keys": base64.b64encode(self._text).decode()}}


async def test_the_first_line_is_the_key() -> None:
    assert await SecretKeys(Holding(b"\n  one \ntwo\n").get).read(PLACE) == "one"


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (Holding(), "Secret chat-keys in namespace models does not exist"),
        (Holding(b" \n"), "has nothing under the key keys"),
        (Holding(b"\xff\xfe"), "begins with no API key"),
        (Holding(error=Rejected(403, "no")), r"may not read .* \(403\); .*readableSecrets"),
        (Holding(error=Unavailable("away")), "cannot be read: away"),
    ],
)
async def test_what_cannot_be_read_names_place_and_remedy(held: Holding, told: str) -> None:
    with pytest.raises(NoAnswer, match=told):
        await SecretKeys(held.get).read(PLACE)
