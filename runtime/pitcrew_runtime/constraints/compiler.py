"""Compiles constraints, within bounds, and remembers the last ones.

What a caller sends is hostile until proven otherwise. Its size is bounded, llguidance's own fuel
bounds time and memory of compiling and of every later step, and the first token mask is computed
here, where it delays nobody else. Compiling has two threads of its own, so that a flood of grammars
waits for them alone; the library lets go of the interpreter meanwhile.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from pitcrew_runtime.constraints.constraint import Constraint, Kind
from pitcrew_runtime.constraints.guide import GrammarGuide, in_words
from pitcrew_runtime.errors import InvalidRequest, QueueFull

MAX_SOURCE = 1 << 16
"""Characters of a constraint."""
MAX_QUEUED = 64
"""Constraints that may be compiled or wait for it; more are refused with 429."""
_REMEMBERED = 64
_AT_ONCE = 2
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=5_000,
    max_lexer_states=20_000,
    max_grammar_size=200_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""About 20 ms for a lexer and 5 ms for a step, at first; 40 MB of lexer states. Objects of 400 optional
properties need fewer items than these. What comes of a step as a text grows is `GrammarGuide`'s care.
"""
_WHITESPACE = r"[ \t\n\r]{0,16}"
"""Between the parts of JSON. Unbounded, a model could go on with spaces for ever."""


class Compiled:
    """A grammar that is ready to be followed by any number of sequences."""

    def __init__(self, matcher: LLMatcher, ends: Collection[int], vocabulary: int) -> None:
        self._matcher = matcher
        self._ends = ends
        self._vocabulary = vocabulary

    def guide(self) -> GrammarGuide:
        """One for a sequence of its own."""
        return GrammarGuide(self._matcher.deep_copy(), self._ends, self._vocabulary)


class Compiler:
    """Grammars over one tokenizer. `build` may be called on any thread, `compile` on one event loop.

    `tokenizer` is the text of tokenizer.json, `ends` are the tokens that end a text, and
    `vocabulary` is the width of the logits.
    """

    def __init__(self, tokenizer: str, ends: Collection[int], vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._ends = tuple(end for end in ends if end < vocabulary)
        self._vocabulary = vocabulary
        self._known: OrderedDict[tuple[Kind, str], Compiled] = OrderedDict()
        self._lock = threading.Lock()
        self._under_way: dict[Constraint, asyncio.Future[Compiled]] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="grammar")

    async def compile(self, constraint: Constraint) -> Compiled:
        """Off the event loop; those who ask for the same at once wait for one compilation.

        Raises `InvalidRequest` that says what is wrong with it, or `QueueFull`.
        """
        known = self._recall(constraint)
        if known is not None:
            return known
        _check_size(constraint)
        return await asyncio.shield(self._under_way.get(constraint) or self._begin(constraint))

    def _begin(self, constraint: Constraint) -> asyncio.Future[Compiled]:
        if len(self._under_way) >= MAX_QUEUED:
            raise QueueFull(f"{len(self._under_way)} constraints are to be compiled; retry later")
        events = asyncio.get_running_loop()
        task = events.run_in_executor(self._pool, self.build, constraint)
        self._under_way[constraint] = task
        task.add_done_callback(lambda _: self._under_way.pop(constraint))
        return task

    def build(self, constraint: Constraint) -> Compiled:
        """Compile on this thread; raises `InvalidRequest`."""
        _check_size(constraint)
        if not self._ends:
            raise InvalidRequest(
                f"{constraint.field}: the model has no end-of-text token, so a constrained text "
                "could not end; leave the field out",
                param=constraint.field,
            )
        try:
            backend = self._backend
        except Exception as error:
            raise InvalidRequest(
                f"{constraint.field}: texts of this engine's tokenizer cannot be constrained "
                f"({in_words(str(error))}); leave the field out",
                param=constraint.field,
            ) from error
        compiled = Compiled(_match(backend, constraint), self._ends, self._vocabulary)
        self._remember(constraint, compiled)
        return compiled

    @cached_property
    def _backend(self) -> LLTokenizer:
        return LLTokenizer(self._tokenizer, self._vocabulary, list(self._ends))

    def _recall(self, constraint: Constraint) -> Compiled | None:
        with self._lock:
            key = (constraint.kind, constraint.source)
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def _remember(self, constraint: Constraint, compiled: Compiled) -> None:
        with self._lock:
            self._known[constraint.kind, constraint.source] = compiled
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def _check_size(constraint: Constraint) -> None:
    if len(constraint.source) > MAX_SOURCE:
        raise InvalidRequest(
            f"{constraint.field}: {len(constraint.source)} characters; at most {MAX_SOURCE} are "
            "compiled, send a smaller one",
            param=constraint.field,
        )


def _match(backend: LLTokenizer, constraint: Constraint) -> LLMatcher:
    matcher = LLMatcher(backend, _grammar(constraint), limits=_LIMITS, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise InvalidRequest(
            f"{constraint.field}: {in_words(matcher.get_error())}", param=constraint.field
        )
    return matcher


def _grammar(constraint: Constraint) -> str:
    """In llguidance's form."""
    if constraint.kind is Kind.REGEX:
        return LLMatcher.grammar_from_regex(constraint.source)
    if constraint.kind is Kind.GRAMMAR:
        return LLMatcher.grammar_from_lark(constraint.source)
    try:
        return LLMatcher.grammar_from_json_schema(
            constraint.source, overrides={"whitespace_pattern": _WHITESPACE, "lenient": False}
        )
    except ValueError as error:
        raise InvalidRequest(
            f"{constraint.field}: {in_words(str(error))}", param=constraint.field
        ) from None
