"""Every text that a guide lets through is in the language that was asked for."""

import asyncio
import json
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from pitcrew_runtime.constraints.compiler import MAX_QUEUED, MAX_SOURCE, Compiled, Compiler
from pitcrew_runtime.constraints.constraint import Constraint, Kind
from pitcrew_runtime.constraints.guide import GrammarGuide
from pitcrew_runtime.core.guide import Guide
from pitcrew_runtime.errors import InvalidRequest, QueueFull
from pitcrew_runtime.server.schemas import CompletionBody
from pitcrew_runtime.text.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[3] / "samples/models/tiny-kjv"
SOURCE = (FOLDER / "tokenizer.json").read_text()
TOKENIZER = Tokenizer.load(SOURCE.encode(), (FOLDER / "tokenizer_config.json").read_bytes())
VOCABULARY, END = 2048, 1
COMPILER = Compiler(SOURCE, [END], VOCABULARY)


def guide(kind: Kind, source: str) -> GrammarGuide:
    return COMPILER.build(Constraint(kind, source, "field")).guide()


def tokens(mask: bytes) -> list[int]:
    return [token for token in range(VOCABULARY) if mask[token >> 3] >> (token & 7) & 1]


def babble(follow: Guide, rng: random.Random, most: int = 120) -> tuple[str, bool]:
    """A text of random allowed tokens, and whether it came to its end."""
    said: list[int] = []
    while len(said) < most:
        allowed = tokens(follow.allowed(said))
        if END in allowed:
            return TOKENIZER.decode(said), True
        said.append(rng.choice(allowed))
    return TOKENIZER.decode(said), False


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_choice_is_taken_literally(text: str) -> None:
    constraint = CompletionBody(model="m", prompt="x", guided_choice=[text]).constraint
    assert constraint is not None
    assert babble(COMPILER.build(constraint).guide(), random.Random(0)) == (text, True)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "king": {"enum": ["David", "Saul"]},
        "years": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["king", "years"],
    "additionalProperties": False,
}


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_texts_follow_their_schema(rng: random.Random) -> None:
    text, ended = babble(guide(Kind.JSON_SCHEMA, json.dumps(SCHEMA)), rng)
    assert ended
    found = json.loads(text)
    assert set(found) == {"king", "years"}
    assert found["king"] in ("David", "Saul")
    assert found["years"] <= 99


@pytest.mark.parametrize("pattern", ["[a-c]{2,5}", "(yea|nay), (David|Saul)!", "é+€?x"])
def test_texts_match_their_expression(pattern: str) -> None:
    text, ended = babble(guide(Kind.REGEX, pattern), random.Random(1))
    assert ended
    assert re.fullmatch(pattern, text)


def test_texts_are_words_of_their_grammar() -> None:
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,3}/'
    text, ended = babble(guide(Kind.GRAMMAR, grammar), random.Random(2))
    assert ended
    assert all(1 <= len(part) <= 3 and part.isdigit() for part in text.split("+"))


@pytest.mark.parametrize("choices", [["yea", "nay"], ["a.b", "a|b", "(x)", "\n", "[é]{2}"]])
def test_choices_are_all_said(choices: list[str]) -> None:
    constraint = CompletionBody(model="m", prompt="x", guided_choice=choices).constraint
    assert constraint is not None
    compiled = COMPILER.build(constraint)
    assert {babble(compiled.guide(), random.Random(seed))[0] for seed in range(60)} == set(choices)


@given(st.randoms(use_true_random=False), st.data())
@settings(max_examples=30, deadline=None)
def test_any_continuation_may_be_asked_about_in_any_order(
    rng: random.Random, data: st.DataObject
) -> None:
    """Retries, preemptions and rejected drafts go back; the answer depends on the tokens alone."""
    compiled = COMPILER.build(Constraint(Kind.JSON_SCHEMA, json.dumps(SCHEMA), "field"))
    said: list[int] = []
    first = compiled.guide()
    while END not in (allowed := tokens(first.allowed(said))):
        said.append(rng.choice(allowed))
    wanderer = compiled.guide()
    for _ in range(6):
        length = data.draw(st.integers(0, len(said)))
        asked = said[:length]
        if data.draw(st.booleans()):
            wanderer.allowed([*asked, data.draw(st.integers(2, VOCABULARY - 1))])
        assert wanderer.allowed(asked) == compiled.guide().allowed(asked)
    assert wanderer.fault is None


def test_guides_of_one_grammar_do_not_see_each_other() -> None:
    compiled = COMPILER.build(Constraint(Kind.REGEX, "ab|cd", "field"))
    one, other = compiled.guide(), compiled.guide()
    (a,) = TOKENIZER.encode("a")
    before = other.allowed([])
    one.allowed([a])
    assert other.allowed([]) == before


WRONG = [
    (Kind.REGEX, "("),
    (Kind.REGEX, "(" * 10_000),
    (Kind.REGEX, "(?=look)"),
    (Kind.GRAMMAR, ""),
    (Kind.GRAMMAR, "start: nowhere"),
    (Kind.JSON_SCHEMA, "{"),
    (Kind.JSON_SCHEMA, '{"$ref": "#"}'),
    (Kind.JSON_SCHEMA, '{"type": "sonnet"}'),
    (Kind.JSON_SCHEMA, '{"$ref": "file:///etc/passwd"}'),
    (Kind.REGEX, "x" * (MAX_SOURCE + 1)),
]


@pytest.mark.parametrize(("kind", "source"), WRONG, ids=lambda value: str(value)[:20])
def test_what_cannot_be_compiled_is_the_requests_fault(kind: Kind, source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^field: ...") as refused:
        guide(kind, source)
    assert refused.value.param == "field"


def test_a_model_that_cannot_end_cannot_be_constrained() -> None:
    with pytest.raises(InvalidRequest, match="no end-of-text token"):
        Compiler(SOURCE, [], VOCABULARY).build(Constraint(Kind.REGEX, "a", "field"))


def test_a_tokenizer_that_cannot_be_constrained_is_told() -> None:
    with pytest.raises(InvalidRequest, match=r"field: texts of this engine's tokenizer cannot"):
        Compiler("{}", [END], VOCABULARY).build(Constraint(Kind.REGEX, "a", "field"))


EXPLOSIVE = [
    (Kind.REGEX, "((a{0,1000}){0,1000}){0,1000}"),
    (Kind.REGEX, "(a+)+$"),
    (Kind.REGEX, "(.*a.{200}){20}"),
    (Kind.REGEX, "a" * MAX_SOURCE),
    (Kind.REGEX, "|".join(f"{chr(97 + n % 26)}.{{{n}}}" for n in range(3000))),
    (Kind.GRAMMAR, 'start: start start | "a"'),
    (Kind.GRAMMAR, "start: X\nX: /.*a.{50}/ & /.*b.{50}/ & ~/.*c.{50}d.*/"),
    (
        Kind.GRAMMAR,
        "start: "
        + " ".join(f"(r{n})*" for n in range(1500))
        + "".join(f"\nr{n}: start | /[a-z]+{n}/" for n in range(1500)),
    ),
    (Kind.JSON_SCHEMA, json.dumps({"type": "integer", "multipleOf": 999_999_937})),
    (Kind.JSON_SCHEMA, json.dumps({"type": "array", "minItems": 10**9})),
    (
        Kind.JSON_SCHEMA,
        json.dumps(
            {
                "allOf": [
                    {"anyOf": [{"minimum": n}, {"maximum": m}]} for n in range(8) for m in range(3)
                ]
            }
        ),
    ),
    (
        Kind.JSON_SCHEMA,
        json.dumps(
            {"properties": {f"p{n}": {"type": "string", "minLength": n} for n in range(1300)}}
        ),
    ),
]


@pytest.mark.parametrize(("kind", "source"), EXPLOSIVE, ids=lambda value: str(value)[:20])
def test_explosive_grammars_are_refused_or_followed_within_their_fuel(
    kind: Kind, source: str
) -> None:
    """CVE-2025-48944's class. The fuel bounds processor time; the test's bound is a hundred times it."""
    started = time.process_time()
    try:
        follow = guide(kind, source)
    except InvalidRequest:
        return
    finally:
        assert time.process_time() - started < 20
    babble(follow, random.Random(3), 20)
    assert time.process_time() - started < 20


def test_a_grammar_that_is_given_up_ends_the_text_and_says_so() -> None:
    properties = {f"p{n}": {"type": "string", "minLength": n} for n in range(1300)}
    follow = guide(Kind.JSON_SCHEMA, json.dumps({"type": "object", "properties": properties}))
    babble(follow, random.Random(4), 40)
    assert follow.fault is not None
    assert "too complex" in follow.fault
    assert tokens(follow.allowed([])) == [END]


class Ticking:
    """A clock that a guide's work takes so many seconds by."""

    def __init__(self, *seconds: float) -> None:
        self._seconds, self._now, self._reads = seconds, 0.0, 0

    def __call__(self) -> float:
        self._now += self._seconds[self._reads // 2 % len(self._seconds)] * (self._reads % 2)
        self._reads += 1
        return self._now


def asked_before_it_was_given_up(clock: Ticking) -> int:
    backend = LLTokenizer(SOURCE, VOCABULARY, [END])
    matcher = LLMatcher(backend, LLMatcher.grammar_from_regex("a*"))
    follow = GrammarGuide(matcher, [END], VOCABULARY, clock)
    for asked in range(1000):
        allowed = follow.allowed([])
        if follow.fault is not None:
            assert tokens(allowed) == [END]
            assert "too complex to follow: it takes more than 8 ms for each token" in follow.fault
            return asked
    return 1000


def test_a_guide_that_keeps_everybody_waiting_is_given_up() -> None:
    assert asked_before_it_was_given_up(Ticking(0.3)) == 0
    assert asked_before_it_was_given_up(Ticking(0.014)) == 40
    assert asked_before_it_was_given_up(Ticking(0.003)) == 1000
    assert asked_before_it_was_given_up(Ticking(*[0.001] * 99, 0.2)) == 1000, "once in a while"


@pytest.mark.parametrize(
    "source",
    [
        'start: e\ne: e e e | e e | "a" | "b" | ""',
        'start: x\nx: x x | "a" | "b" | x "c" | ("a" | "b" | "c" | " ") x',
    ],
)
def test_a_grammar_that_grows_with_its_text_is_given_up(source: str) -> None:
    follow, said, rng = guide(Kind.GRAMMAR, source), list[int](), random.Random(5)
    while follow.fault is None and len(said) < 200:
        following = [token for token in tokens(follow.allowed(said)) if token != END]
        said.append(rng.choice(following or [END]))
    assert follow.fault is not None
    assert "too complex" in follow.fault


def test_a_wide_schema_is_not_too_complex() -> None:
    properties = {f"p{n}": {"type": ["string", "integer", "null"]} for n in range(400)}
    follow = guide(Kind.JSON_SCHEMA, json.dumps({"type": "object", "properties": properties}))
    babble(follow, random.Random(6))
    assert follow.fault is None


class Slow(Compiler):
    """Counts what it compiles, and waits to be allowed to."""

    def __init__(self) -> None:
        super().__init__(SOURCE, [END], VOCABULARY)
        self.allowed = threading.Event()
        self.built: list[str] = []

    def build(self, constraint: Constraint) -> Compiled:
        self.built.append(constraint.source)
        assert self.allowed.wait(30)
        return super().build(constraint)


def pattern(number: int) -> Constraint:
    return Constraint(Kind.REGEX, f"a{{{number}}}", "guided_regex")


async def test_a_flood_of_constraints_is_bounded_and_each_is_compiled_once() -> None:
    compiler = Slow()
    asked = [pattern(1 + number % MAX_QUEUED) for number in range(3 * MAX_QUEUED)]
    waiting = [asyncio.create_task(compiler.compile(one)) for one in asked]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match=f"{MAX_QUEUED} constraints"):
        await compiler.compile(pattern(MAX_QUEUED + 1))
    waiting[0].cancel()  # others wait for the same
    compiler.allowed.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, Compiled) for one in found[1:])
    assert sorted(compiler.built) == sorted({one.source for one in asked})
    await compiler.compile(pattern(MAX_QUEUED + 1))


async def test_a_fault_is_told_to_all_who_asked() -> None:
    compiler = Slow()
    compiler.allowed.set()
    bad = Constraint(Kind.REGEX, "(", "guided_regex")
    found = await asyncio.gather(*(compiler.compile(bad) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [InvalidRequest] * 3


async def test_equal_constraints_are_compiled_once() -> None:
    compiler = Compiler(SOURCE, [END], VOCABULARY)
    one = await compiler.compile(Constraint(Kind.REGEX, "a+", "guided_regex"))
    again = await compiler.compile(Constraint(Kind.REGEX, "a+", "structured_outputs"))
    other = await compiler.compile(Constraint(Kind.GRAMMAR, 'start: "a"+', "guided_grammar"))
    assert one is again
    assert other is not one
