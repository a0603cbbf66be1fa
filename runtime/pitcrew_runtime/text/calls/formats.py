"""How models write calls that they choose to make, and what reads each way.

A call that is forced is held to JSON, whatever the model would write.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import partial

from pitcrew_runtime.text.calls.json_calls import JsonCalls
from pitcrew_runtime.text.calls.message import MessageCalls
from pitcrew_runtime.text.calls.named_call import NamedCall
from pitcrew_runtime.text.calls.piece import CallText, NewId, mistral_id, new_id
from pitcrew_runtime.text.calls.tagged import NO_MARKS, TaggedCalls, Tags
from pitcrew_runtime.text.calls.xml_calls import NO_SCHEMAS, Schemas, XmlCalls
from pitcrew_runtime.text.reading import Reader
from pitcrew_runtime.text.tokenizer import Tokenizer


class CallFormat(StrEnum):
    """A way of writing calls."""

    HERMES = "hermes"
    """`<tool_call>` tags with JSON between (Hermes, Qwen) or XML (Qwen 3 Coder)."""
    MISTRAL = "mistral"
    """`[TOOL_CALLS]` and an array of JSON, or `name[ARGS]{…}`."""
    TOKENS = "tokens"
    """The token `<|tool_call|>` and an array of JSON (Granite, Phi-4-mini)."""
    LLAMA3_JSON = "llama3_json"
    """A message that is JSON and nothing else."""


_TAGS = {
    CallFormat.HERMES: Tags("<tool_call>", "</tool_call>"),
    CallFormat.MISTRAL: Tags("[TOOL_CALLS]"),
    CallFormat.TOKENS: Tags("<|tool_call|>", "<|/tool_call|>"),
}
_MARKS = {
    CallFormat.MISTRAL: ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    CallFormat.TOKENS: ("<|tool_call|>", "<|/tool_call|>"),
}


def format_of(template: str, tokenizer: Tokenizer) -> CallFormat | None:
    """The format that a chat template tells its model to use; None for one that is not known."""
    if "<tool_call>" in template:
        return CallFormat.HERMES
    if "[TOOL_CALLS]" in template:
        return CallFormat.MISTRAL
    if "tools" in template and tokenizer.id_of("<|tool_call|>") is not None:
        return CallFormat.TOKENS
    if '"parameters"' in template and (
        "<|python_tag|>" in template or tokenizer.id_of("<|python_tag|>") is not None
    ):
        return CallFormat.LLAMA3_JSON
    return None


def marks_of(form: CallFormat | None, tokenizer: Tokenizer) -> Mapping[int, str]:
    """The tokens that the format's tags are, with their names."""
    names = _MARKS.get(form, ()) if form is not None else ()
    return {token: name for name in names if (token := tokenizer.id_of(name)) is not None}


def id_maker(form: CallFormat | None) -> NewId:
    """What makes ids that the model's template takes when it is shown a call again."""
    return mistral_id if form is CallFormat.MISTRAL else new_id


def reader_of(
    form: CallFormat,
    parallel: bool = True,
    marks: Mapping[int, str] = NO_MARKS,
    schemas: Schemas = NO_SCHEMAS,
) -> Reader:
    """Finds the calls in a text. See `TaggedCalls` and `XmlCalls`."""
    if form is CallFormat.LLAMA3_JSON:
        return MessageCalls(parallel)
    opened = partial(_opened, form, schemas)
    return TaggedCalls(_TAGS[form], opened, parallel, marks)


def _opened(form: CallFormat, schemas: Schemas, char: str, first: int) -> CallText:
    name_call = id_maker(form)
    if form is CallFormat.HERMES and char == "<":
        return XmlCalls(first, name_call, schemas)
    if form is CallFormat.MISTRAL and char not in "[{":
        return NamedCall(first, name_call)
    return JsonCalls(first, name_call)
