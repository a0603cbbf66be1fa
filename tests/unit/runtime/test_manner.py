"""What is read of a model's template and tokenizer, and calls that come as tokens."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from pitcrew_runtime.core.request import Finish, Sampled, Update
from pitcrew_runtime.server.answer import joined
from pitcrew_runtime.server.choice import Choice, Delta, Ending
from pitcrew_runtime.server.messages import NamedFunction, NamedTool, Tool, ToolChoice
from pitcrew_runtime.server.tools import call_reader
from pitcrew_runtime.text.calls.formats import CallFormat, reader_of
from pitcrew_runtime.text.manner import Manner, manner_of
from pitcrew_runtime.text.reading import Reader
from pitcrew_runtime.text.thoughts import Thoughts
from pitcrew_runtime.text.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[3] / "samples/models/tiny-kjv"
MISTRAL = "{% for tool in tools %}[AVAILABLE_TOOLS]{% endfor %}[TOOL_CALLS]"
GRANITE = "{% for tool in tools %}{{ tool }}{% endfor %}"


def tokenizer(*special: str) -> Tokenizer:
    backend = Backend.from_file(str(FOLDER / "tokenizer.json"))
    backend.add_special_tokens(list(special))
    return Tokenizer(backend, {})


PLAIN_TOKENIZER = tokenizer()
MISTRAL_TOKENIZER = tokenizer("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
GRANITE_TOKENIZER = tokenizer("<|tool_call|>")
LLAMA = '{{ tools }} Answer with {"name": its name, "parameters": its arguments}.'
"""Without a tag, as the templates of Llama 3.2's small models: it is in their tokenizer alone."""
LLAMA_TOKENIZER = tokenizer("<|python_tag|>")


@pytest.mark.parametrize(
    ("template", "tokens", "form"),
    [
        ("{{ '<tool_call>' }}", PLAIN_TOKENIZER, CallFormat.HERMES),
        ("{{ '<tool_call>\n<function=example>' }}", PLAIN_TOKENIZER, CallFormat.HERMES),
        ('<|python_tag|> {"name": x, "parameters": y}', PLAIN_TOKENIZER, CallFormat.LLAMA3_JSON),
        (LLAMA, LLAMA_TOKENIZER, CallFormat.LLAMA3_JSON),
        (LLAMA, PLAIN_TOKENIZER, None),
        (MISTRAL, MISTRAL_TOKENIZER, CallFormat.MISTRAL),
        (MISTRAL, PLAIN_TOKENIZER, CallFormat.MISTRAL),
        (GRANITE, GRANITE_TOKENIZER, CallFormat.TOKENS),
        (GRANITE, PLAIN_TOKENIZER, None),
        ("{{ messages }}", GRANITE_TOKENIZER, None),
    ],
)
def test_templates_and_tokens_tell_the_format(
    template: str, tokens: Tokenizer, form: CallFormat | None
) -> None:
    assert manner_of(template, tokens).calls is form


def told(reader: Reader, tokens: Tokenizer, text: str) -> Delta:
    """The whole answer, token by token."""
    choice = Choice(0, tokens, Ending(), reader=reader)
    found = [choice.feed(Update(1, Sampled(token))) for token in tokens.encode_rendered(text)]
    return joined(0, [*found, choice.feed(Update(1, Sampled(0), Finish.STOP))])


@pytest.mark.parametrize(
    ("template", "tokens", "text"),
    [
        (MISTRAL, MISTRAL_TOKENIZER, 'Yea.[TOOL_CALLS][{"name": "smite", "arguments": {"n": 1}}]'),
        (MISTRAL, MISTRAL_TOKENIZER, 'Yea.[TOOL_CALLS]smite[CALL_ID]a1b2c3d4e[ARGS]{"n": 1}'),
        (GRANITE, GRANITE_TOKENIZER, 'Yea.<|tool_call|>[{"name": "smite", "arguments": {"n": 1}}]'),
    ],
)
@pytest.mark.parametrize("thinks", [False, True])
def test_tags_that_are_tokens(template: str, tokens: Tokenizer, text: str, thinks: bool) -> None:
    manner = manner_of(template, tokens)
    assert manner.calls is not None
    reader = reader_of(manner.calls, marks=manner.marks)
    found = told(Thoughts(reader, inside=False) if thinks else reader, tokens, text)
    assert (found.text, found.finish) == ("Yea.", "tool_calls")
    assert [(call.name, call.arguments) for call in found.calls] == [("smite", '{"n": 1}')]


def test_a_tag_within_thoughts_divides_nothing() -> None:
    manner = manner_of(GRANITE, GRANITE_TOKENIZER)
    assert manner.calls is not None
    reader = Thoughts(reader_of(manner.calls, marks=manner.marks), inside=False)
    found = told(reader, GRANITE_TOKENIZER, "<think>I might <|tool_call|>call.</think>Nay.")
    assert (found.reasoning, found.text, found.calls) == ("I might call.", "Nay.", ())


SMITE = Tool.model_validate(
    {
        "type": "function",
        "function": {
            "name": "smite",
            "parameters": {"type": "object", "properties": {"times": {"type": "integer"}}},
        },
    }
)


def test_values_mean_what_the_requests_schema_says() -> None:
    reader = call_reader([SMITE], "auto", True, Manner(CallFormat.HERMES))
    call = "<tool_call><function=smite><parameter=times>7</parameter></function></tool_call>"
    read = reader.feed(call)
    assert [(piece.name, piece.arguments) for piece in read.calls] == [("smite", '{"times": 7}')]


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ("auto", "[TOOL_CALLS]smite{}"),
        ("required", '[{"name": "smite", "parameters": {}}]'),
        (NamedTool(type="function", function=NamedFunction(name="smite")), "{}"),
    ],
)
def test_every_call_has_an_id_that_the_template_takes(choice: ToolChoice, text: str) -> None:
    reader = call_reader([SMITE], choice, True, Manner(CallFormat.MISTRAL))
    (piece,) = reader.feed(text).calls
    assert piece.id is not None
    assert len(piece.id) == 9
