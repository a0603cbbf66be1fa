"""The chat template's environment: what templates may rely on, and what they cannot do."""

import itertools

import pytest

from pitcrew_builder.chat import find_template
from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.text.template import ChatTemplate

TURNS = [{"role": "user", "content": "Hail"}, {"role": "assistant", "content": "<Well> & met é"}]


def render(source: str, messages: list[dict[str, str]] = TURNS) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages)


def test_a_usual_template() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}\n"
        "  {% if m.role == 'user' %}\n"
        "[{{ m['content'] }}]\n"
        "  {% else %}{% continue %}{% endif %}\n"
        "{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    assert render(source) == "<s>[Hail]\n>"


def test_json_is_not_escaped_or_sorted() -> None:
    assert render("{{ messages[1] | tojson }}") == (
        '{"role": "assistant", "content": "<Well> & met é"}'
    )


def test_generation_tags_are_text() -> None:
    assert render("{% generation %}a{% endgeneration %}b") == "ab"


def test_the_template_can_refuse() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "attempt",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ (lambda: 0)() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ ''.format.__globals__.keys() }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ range(10000000) | list | length }}",
        "{{ undefined_thing.attribute }}",
    ],
)
def test_attempts_to_break_out_are_refused(attempt: str) -> None:
    with pytest.raises(InvalidRequest):
        render(attempt)


def test_endless_templates_are_cut_off() -> None:
    ticks = itertools.count()
    source = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    with pytest.raises(InvalidRequest, match="took longer than 5 s"):
        ChatTemplate(source, {}, clock=lambda: next(ticks) / 1000).render(TURNS)


def test_endless_text_is_cut_off() -> None:
    source = "{% for i in range(90000) %}{{ messages[0].content }}{% endfor %}"
    with pytest.raises(InvalidRequest, match="more than 4000000 characters"):
        render(source, [{"role": "user", "content": "x" * 1000}])


def test_a_broken_template_is_told_when_it_is_asked_for() -> None:
    template = ChatTemplate("{% if %}", {})
    with pytest.raises(InvalidRequest, match=r"chat template is broken.*use /v1/completions"):
        template.render(TURNS)


def test_where_templates_are_found() -> None:
    several = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert find_template({"chat_template": "C"}, "F") == "F"
    assert find_template({"chat_template": "C"}, None) == "C"
    assert find_template({"chat_template": several}, None) == "D"
    assert find_template({}, None) is None


def test_options_are_what_a_template_reads() -> None:
    source = (
        "{% if effort is not defined %}{% set effort = 'high' %}{% endif %}"
        "{{ bos_token }}{% for m in messages %}{{ m.role }}{% endfor %}"
        "{{ strftime_now('%Y')[:0] }}{{ effort }}{% if thinks is defined %}{{ thinks }}{% endif %}"
    )
    template = ChatTemplate(source, {"bos_token": "<s>"})
    assert template.options == {"effort", "thinks"}
    assert template.render(TURNS[:1]) == "<s>userhigh"
    assert template.render(TURNS[:1], options={"thinks": False}) == "<s>userhighFalse"
    assert template.render(TURNS[:1], options={"effort": "{{ 1 }}"}) == "<s>user{{ 1 }}"
    for name in ("messages", "bos_token", "strftime_now", "range", "chat_template", "m", "self"):
        with pytest.raises(InvalidRequest, match=rf"{name}: .*\(it reads effort, thinks\); leave"):
            template.render(TURNS, options={name: "x"})


TOOL = {"type": "function", "function": {"name": "smite", "parameters": {"type": "object"}}}
TOLD = '[{"name": "smite", "parameters": {"type": "object"}}]'
SYSTEM_TOOLS = """{% for message in messages %}{{ message['role'] }}:{{ message['content'] }}
{%- if message['tools'] %}({{ message['tools'] }}){% endif %};{% endfor %}"""


@pytest.mark.parametrize(
    ("source", "has_tools"),
    [
        ("{% if tools %}{{ tools }}{% endif %}", True),
        ("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}", True),
        (SYSTEM_TOOLS, True),
        ("{{ messages }}", False),
        ("no tools here{{ messages }}", False),
        ("{% set tools = [] %}{{ tools }}", False),
    ],
)
def test_a_template_has_a_place_for_tools_or_not(source: str, has_tools: bool) -> None:
    assert ChatTemplate(source, {}).has_tools is has_tools


def test_tools_may_be_told_by_the_system_message() -> None:
    template = ChatTemplate(SYSTEM_TOOLS, {})
    user = {"role": "user", "content": "Smite."}
    system = {"role": "system", "content": "Be just."}
    assert template.render([user], [TOOL]) == f"system:({TOLD});user:Smite.;"
    assert template.render([system, user], [TOOL]) == f"system:Be just.({TOLD});user:Smite.;"
    assert template.render([system, user]) == "system:Be just.;user:Smite.;"
