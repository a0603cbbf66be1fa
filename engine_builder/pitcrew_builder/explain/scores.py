"""The proof's figures as rows of text, for the terminal and the page."""

from pitcrew_builder.manifest import ProofReport

SCORES = ("batch", "capacity", "tokens", "perplexity", "reference", "same top token", "KL, nats")
TASKS = ("metric", "questions", "score, %", "unquantized, %")


def score_rows(proof: ProofReport) -> list[tuple[str, ...]]:
    """A row of `SCORES` for each shape; marked are those of texts that were rotated as long ones,
    and those of the form that decodes by contexts.
    """
    every = [(" long" if score.long else "", score) for score in proof.scores]
    every += [(" decoding", score) for score in proof.served]
    return [
        (
            f"{score.batch}{mark}",
            str(score.capacity),
            f"{score.tokens:,}",
            f"{score.perplexity:.3f}",
            f"{score.reference_perplexity:.3f}",
            f"{score.top1_agreement:.2%}",
            f"{score.kl_divergence:.2e}",
        )
        for mark, score in every
    ]


def task_rows(proof: ProofReport) -> list[tuple[str, ...]]:
    """A row of `TASKS` for each task."""
    return [
        (
            task.metric.value,
            str(task.samples),
            f"{task.score:.2f}",
            "–" if task.reference_score is None else f"{task.reference_score:.2f}",
        )
        for task in proof.tasks
    ]
