"""Prompts that are chats: written by the checkpoint's template as they are served, and bounded."""

import json
from pathlib import Path
from typing import Any

import pytest

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import BuildError, InvalidSpec
from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.prompts.source import Message, Prompt
from pitcrew_builder.prompts.tokens import Encoder
from pitcrew_runtime.text.template import ChatTemplate
from pitcrew_runtime.text.tokenizer import Tokenizer

SAMPLE = Path(__file__).parents[3] / "samples" / "models" / "tiny-kjv"
FACTS = ModelFacts(
    architecture="llama",
    parameters=1,
    layers=1,
    hidden_size=8,
    attention_heads=1,
    kv_heads=1,
    head_dim=8,
    vocab_size=2048,
    bos_token_id=1,
    eos_token_ids=(0,),
    pad_token_id=None,
)
CHAT = Prompt(
    messages=(
        Message(role="system", content="Speak & be <brief>."),
        Message(role="user", content="Who art thou?"),
    )
)
USUAL = (
    "{{ bos_token }}{% if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}\n"
    "{% for m in messages %}\n"
    "    {% if m.role == 'system' %}{% continue %}{% endif %}\n"
    "{% generation %}{{ m | tojson }}{% endgeneration %}"
    "{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def _checkpoint(where: Path, template: str | None = None, **settings: object) -> Directory:
    (where / "tokenizer.json").write_bytes((SAMPLE / "tokenizer.json").read_bytes())
    known = {"bos_token": {"content": "<|begin|>"}, **settings}
    (where / "tokenizer_config.json").write_text(json.dumps(known))
    if template is not None:
        (where / "chat_template.jinja").write_text(template)
    return Directory.of(where)


@pytest.mark.parametrize(
    "place",
    [
        {"template": USUAL},
        {"chat_template": USUAL},
        {
            "chat_template": [
                {"name": "tool_use", "template": "no"},
                {"name": "default", "template": USUAL},
            ]
        },
    ],
    ids=["a file", "among the settings", "one of several"],
)
def test_chats_are_the_tokens_that_are_served(place: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, **place)
    settings = (tmp_path / "tokenizer_config.json").read_bytes()
    served = Tokenizer.load((tmp_path / "tokenizer.json").read_bytes(), settings)
    turns = [turn.model_dump() for turn in CHAT.messages]
    text = ChatTemplate(USUAL, served.special_tokens).render(turns)
    assert text == '<|begin|>{"role": "user", "content": "Who art thou?"}>'
    encoder = Encoder(checkpoint, FACTS)
    assert encoder.ask(CHAT) == served.encode_rendered(text)
    assert encoder.encode([CHAT], 512) == [served.encode_rendered(text.removesuffix(">"))]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "no chat_template.jinja to write them by, nor chat_template in tokenizer_config"),
        ("{% if %}", "chat template is broken"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate; give texts"),
        ("{{ 'x' * 9000000000 }}", "the operands of .* are too large"),
        ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "more than 4000000 characters"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[9].role }}", "has no element 9"),
    ],
)
def test_templates_that_write_no_chat_are_refused(
    template: str | None, told: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSpec, match=told):
        Encoder(_checkpoint(tmp_path, template), FACTS).ask(CHAT)


@pytest.mark.parametrize("several", [[{"name": "default"}], [7]])
def test_settings_whose_templates_are_none_are_refused(several: object, tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, chat_template=several)
    with pytest.raises(InvalidSpec, match="chat template is broken"):
        Encoder(checkpoint, FACTS).ask(CHAT)


def test_settings_that_are_no_json_are_refused(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(BuildError, match=r"tokenizer_config\.json is not JSON"):
        Encoder(checkpoint, FACTS).ask(CHAT)


def test_neither_padding_nor_truncation_of_a_training_is_in_prompts(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path)
    text = Prompt(text="In the beginning God created the heaven and the earth.")
    (plain,) = Encoder(checkpoint, FACTS).encode([text], 512)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    document["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|end|>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert Encoder(checkpoint, FACTS).encode([text], 512) == [plain]
