"""Tasks from end to end: questions to tokens, greedy answers, text, scores, verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.manifest import ModelFacts, ResolvedShapes, TaskScore
from pitcrew_builder.network import Network
from pitcrew_builder.progress import part_of
from pitcrew_builder.prompts.questions import Paper
from pitcrew_builder.prompts.tokens import Encoder
from pitcrew_builder.proof.gate import check_tasks
from pitcrew_builder.proof.generate import Limits, generate
from pitcrew_builder.proof.metrics import METRICS
from pitcrew_builder.proof.prover import paged
from pitcrew_builder.spec import Task

BATCH = 16
"""Questions that are answered at a time, where the engine takes as many."""


@dataclass(frozen=True, slots=True)
class Exam:
    """A paper as the model sees it."""

    task: Task
    prompts: tuple[list[int], ...]
    references: tuple[tuple[str, ...], ...]
    encoder: Encoder

    @classmethod
    def of(cls, paper: Paper, encoder: Encoder, longest: int) -> Self:
        """Encode a paper. Raises `BuildError`: a question has no token, or leaves no room."""
        prompts = tuple(encoder.ask(question.prompt) for question in paper.questions)
        for prompt in prompts:
            if not prompt:
                raise InvalidSpec("proof.tasks: a prompt has no token; leave it out")
            if len(prompt) + paper.task.max_tokens > longest:
                raise InvalidSpec(
                    f"proof.tasks: a prompt of {len(prompt)} tokens and maxTokens "
                    f"{paper.task.max_tokens} are more than shapes.maxSequenceLength {longest}; "
                    f"leave that prompt out, lower maxTokens or raise maxSequenceLength"
                )
        references = tuple(question.references for question in paper.questions)
        return cls(paper.task, prompts, references, encoder)

    def answer(self, ids: Sequence[int], endings: Sequence[int]) -> str:
        """The answer's text: without its end-of-text token, and cut before the first stop text."""
        text = self.encoder.text([token for token in ids if token not in endings])
        cuts = [text.find(stop) for stop in self.task.stop if stop in text]
        return text[: min(cuts)] if cuts else text

    def is_over(self, ids: Sequence[int], endings: Sequence[int]) -> bool:
        """Whether an answer has come to an end token or a stop text."""
        if ids[-1] in endings:
            return True
        # Only looked at where somebody asked: decoding at each token is slow.
        return bool(self.task.stop) and any(s in self.encoder.text(ids) for s in self.task.stop)


def examine(
    exams: Sequence[Exam],
    facts: ModelFacts,
    shapes: ResolvedShapes,
    networks: tuple[Network, Network | None],
    advance: Callable[[float], None],
) -> tuple[TaskScore, ...]:
    """Let the engine and its unquantized twin, where there is one, answer all exams.

    Raises `ValidationFailed` with the figures.
    """
    scores = []
    for index, exam in enumerate(exams):
        told = part_of(advance, index, len(exams))
        own, twin = networks
        engine = _score(exam, facts, shapes, own, part_of(told, 0, 2))
        reference = _score(exam, facts, shapes, twin, part_of(told, 1, 2)) if twin else None
        scores.append(
            TaskScore(
                metric=exam.task.metric,
                samples=len(exam.prompts),
                score=engine,
                reference_score=reference,
            )
        )
    check_tasks(scores, [exam.task for exam in exams])
    return tuple(scores)


def _score(
    exam: Exam,
    facts: ModelFacts,
    shapes: ResolvedShapes,
    network: Network,
    advance: Callable[[float], None],
) -> float:
    endings = facts.eos_token_ids
    answers = generate(
        paged(network, facts, shapes.kv_page_size),
        exam.prompts,
        Limits(min(BATCH, shapes.max_batch_size), exam.task.max_tokens, facts.vocab_size),
        lambda ids: exam.is_over(ids, endings),
        advance,
    )
    texts = [exam.answer(ids, endings) for ids in answers]
    return METRICS[exam.task.metric](texts, exam.references)
