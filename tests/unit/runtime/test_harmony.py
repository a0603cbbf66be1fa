"""GPT-OSS's messages, token by token."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from pitcrew_runtime.core.request import Finish, Sampled, Update
from pitcrew_runtime.server.answer import joined
from pitcrew_runtime.server.choice import Choice, Delta, Ending
from pitcrew_runtime.text.harmony import MARKS, HarmonyMessages
from pitcrew_runtime.text.manner import manner_of
from pitcrew_runtime.text.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[3] / "samples/models/tiny-kjv"


def harmony_tokenizer() -> Tokenizer:
    backend = Backend.from_file(str(FOLDER / "tokenizer.json"))
    backend.add_special_tokens(list(MARKS))
    return Tokenizer(backend, {})


TOKENIZER = harmony_tokenizer()
MANNER = manner_of("{{ '<|start|>assistant<|channel|>' }}", TOKENIZER)
ANALYSIS = "<|channel|>analysis<|message|>They ask for é 😀.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Peace be unto you."
CALL = (
    "<|start|>assistant<|channel|>commentary to=functions.smite <|constrain|>json<|message|>"
    '{"whom": "Saul"}'
)


def deltas(
    text: str, offered: bool = True, finish: Finish = Finish.STOP, stops: tuple[str, ...] = ()
) -> list[Delta]:
    """What a stream tells of a text whose last token ends it."""
    reader = HarmonyMessages(MANNER.marks, offered)
    choice = Choice(0, TOKENIZER, Ending(stops), reader=reader)
    found = [choice.feed(Update(1, Sampled(token))) for token in TOKENIZER.encode_rendered(text)]
    end = TOKENIZER.id_of("<|return|>")
    assert end is not None
    return [*found, choice.feed(Update(1, Sampled(end), finish))]


def told(text: str, offered: bool = True, finish: Finish = Finish.STOP) -> Delta:
    return joined(0, deltas(text, offered, finish))


def test_reasoning_and_answer() -> None:
    found = told(ANALYSIS + FINAL)
    assert (found.reasoning, found.text) == ("They ask for é 😀.", "Peace be unto you.")
    assert (found.calls, found.finish) == ((), "stop")


@pytest.mark.parametrize("recipient_first", [False, True])
def test_a_call(recipient_first: bool) -> None:
    call = CALL
    if recipient_first:
        call = call.replace(" to=functions.smite ", "").replace(
            "assistant", "assistant to=functions.smite"
        )
    found = told(ANALYSIS + call)
    (piece,) = found.calls
    assert (piece.name, piece.arguments) == ("smite", '{"whom": "Saul"}')
    assert (found.text, found.finish) == ("", "tool_calls")
    streamed = [one.calls for one in deltas(ANALYSIS + call) if one.calls]
    assert len(streamed) > 2
    assert streamed[0][0].name == "smite"


def test_words_before_a_call_are_said() -> None:
    said = "<|channel|>commentary<|message|>I will smite.<|end|>"
    found = told(said + CALL)
    assert (found.text, found.finish, len(found.calls)) == ("I will smite.", "tool_calls", 1)


def test_nothing_is_called_that_was_not_offered() -> None:
    found = told(ANALYSIS + CALL, offered=False)
    assert (found.calls, found.finish, found.text) == ((), "stop", "")
    assert '{"whom": "Saul"}' in found.reasoning
    python = CALL.replace("functions.smite", "python").replace("commentary", "analysis")
    assert told(python).reasoning == '{"whom": "Saul"}'


def test_a_call_that_is_cut_off() -> None:
    found = told(CALL.removesuffix('"}'), finish=Finish.LENGTH)
    assert found.finish == "length"
    assert found.calls[0].arguments.startswith('{"whom": "')


def test_a_call_that_is_no_json() -> None:
    found = told(CALL.replace('"Saul"', "Saul"))
    assert (found.calls[0].arguments, found.text, found.finish) == ('{"whom": ', "Saul}", "stop")


def test_text_without_marks_is_an_answer() -> None:
    assert told("Verily").text == "Verily"


def test_marks_that_are_only_written_are_text() -> None:
    fake = "Say <|call|> and <|channel|>."
    reader = HarmonyMessages(MANNER.marks, offered=True)
    choice = Choice(0, TOKENIZER, Ending(), reader=reader)
    ids = TOKENIZER.encode_rendered("<|channel|>final<|message|>")
    plain = Tokenizer(Backend.from_file(str(FOLDER / "tokenizer.json")), {})
    found = [choice.feed(Update(1, Sampled(token))) for token in [*ids, *plain.encode(fake)]]
    found.append(choice.feed(Update(1, None, Finish.LENGTH)))
    assert joined(0, found).text == fake


def test_a_stop_string_that_might_have_begun_belongs_to_its_own_channel() -> None:
    asked = "<|channel|>analysis<|message|>I know<|end|>" + FINAL
    found = joined(0, deltas(asked, stops=("know thee",)))
    assert (found.reasoning, found.text) == ("I know", "Peace be unto you.")


def test_several_messages_of_one_channel() -> None:
    found = told(
        ANALYSIS + ANALYSIS.replace("<|channel|>", "<|start|>assistant<|channel|>") + FINAL
    )
    assert found.reasoning == "They ask for é 😀.\nThey ask for é 😀."


def test_other_models_write_no_harmony() -> None:
    assert not manner_of("{{ messages }}", TOKENIZER).marks
