"""The proof on prompts from end to end: open, measure, judge, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pitcrew_builder.manifest import ModelFacts, ProofReport, ResolvedShapes, Score
from pitcrew_builder.network import Network
from pitcrew_builder.positions import as_long
from pitcrew_builder.progress import part_of
from pitcrew_builder.proof.evaluate import Open, evaluate
from pitcrew_builder.proof.gate import check, check_served
from pitcrew_builder.proof.plan import Case, cases
from pitcrew_builder.proof.sequences import Paged, Plain, Sequences
from pitcrew_builder.proof.served import Forms, compare_decoding
from pitcrew_builder.proof.windows import Windows
from pitcrew_builder.spec import Proof

SAME = "the same network, computed without a cache"
UNQUANTIZED = "the unquantized network in float32"

LONGEST = 512
"""Tokens of a prompt that are used."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be proven, on which text."""

    facts: ModelFacts
    shapes: ResolvedShapes
    texts: Sequence[list[int]]
    prompts_sha256: str
    wanted: Proof


def prove_on_prompts(
    question: Question,
    forms: tuple[Network, Network | None],
    unquantized: Network | None,
    advance: Callable[[float], None],
) -> ProofReport:
    """Measure and judge an engine: its paged form, and the one that is served where that is another.

    Without an unquantized twin, the engine is compared with itself computed plainly. Raises
    `ValidationFailed` with the figures.
    """
    engine, served = forms
    text = Windows.of(list(question.texts))
    every = cases(question.shapes, text.width)

    def measured(facts: ModelFacts, shapes: tuple[Case, ...], part: int) -> tuple[Score, ...]:
        page = question.shapes.kv_page_size
        reference = (
            _plain(engine, facts, page) if unquantized is None else paged(unquantized, facts, page)
        )
        ours, progress = paged(engine, facts, page), part_of(advance, part, 3)
        return evaluate(text, shapes, ours, reference, facts.vocab_size, progress)

    scores = measured(question.facts, every, 0)
    if question.facts.short_texts is not None:
        # Prompts are cut to less than what most such networks call long.
        far = measured(as_long(question.facts), every[:1], 1)
        scores += tuple(score.model_copy(update={"long": True}) for score in far)
    check(scores, question.wanted)
    decoded: tuple[Score, ...] = ()
    if served is not None:
        both = Forms(question.facts, question.shapes, served, engine)
        decoded = compare_decoding(text, both, part_of(advance, 2, 3))
        check_served(decoded, question.wanted)
    return ProofReport(
        prompts=len(text.ids),
        prompts_sha256=question.prompts_sha256,
        reference=SAME if unquantized is None else UNQUANTIZED,
        scores=scores,
        served=decoded,
    )


def paged(network: Network, facts: ModelFacts, page: int) -> Open:
    """Starts rows over pages of `page` tokens."""

    def start(rows: Windows, case: Case) -> Sequences:
        capacity = -(-case.capacity // page) * page
        return Paged(network.run, facts, network.pool_dtype, page, capacity, rows)

    return start


def _plain(network: Network, facts: ModelFacts, page: int) -> Open:
    def start(rows: Windows, case: Case) -> Sequences:
        return Plain(network.run, facts, network.pool_dtype, page)

    return start
