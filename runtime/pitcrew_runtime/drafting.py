"""What the operator of a server asks of speculation, and which engine may guess for which."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.engine_directory import EngineDirectory
from pitcrew_runtime.errors import InvalidOption
from pitcrew_runtime.speculation import ngram

TOKENS = 4
_TOKENIZER = "tokenizer/tokenizer.json"


class Method(StrEnum):
    """Who guesses."""

    NGRAM = "ngram"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Speculation:
    """Guesses at tokens to come; raises `InvalidOption` where the options do not fit together."""

    method: Method
    tokens: int = TOKENS
    """At most, for each sequence in a step."""
    ngram: int = ngram.LONGEST
    """Tokens of the longest ending that is looked up."""
    draft: Path | None = None
    """The engine directory of the one that guesses."""

    def __post_init__(self) -> None:
        if (self.method is Method.DRAFT) != (self.draft is not None):
            raise InvalidOption(
                "--draft-engine: give it with --speculative draft, and only then; it is the "
                "directory of a smaller engine with the same tokenizer"
            )
        if not ngram.SHORTEST <= self.ngram <= ngram.MOST:
            raise InvalidOption(
                f"--ngram-max {self.ngram}: endings of {ngram.SHORTEST} to {ngram.MOST} tokens are "
                "looked up; choose a number between"
            )


def check_draft(target: EngineDirectory, draft: EngineDirectory, limits: Limits) -> None:
    """Raise `InvalidOption` unless `draft` can follow whatever `target` computes within `limits`."""
    for problem in _problems(target, draft, limits):
        raise InvalidOption(f"--draft-engine {draft.manifest.tag}: {problem}")


def _problems(target: EngineDirectory, draft: EngineDirectory, limits: Limits) -> list[str]:
    shapes, model = draft.manifest.identity.shapes, draft.manifest.model
    problems = []
    if draft.manifest.identity.target is not target.manifest.identity.target:
        problems.append(
            f"it is for target {draft.manifest.identity.target}, the served engine for "
            f"{target.manifest.identity.target}; build both for one"
        )
    if model.vocab_size != target.manifest.model.vocab_size:
        problems.append(
            f"its vocabulary has {model.vocab_size} tokens, the served engine's "
            f"{target.manifest.model.vocab_size}; take a model with the same tokenizer"
        )
    if _digest(draft) != _digest(target):
        problems.append(
            "its tokenizer is not the served engine's; take a model with the same tokenizer"
        )
    if shapes.kv_page_size != limits.page_size:
        problems.append(
            f"its KV pages have {shapes.kv_page_size} tokens, the served engine's "
            f"{limits.page_size}; build it with shapes.kvPageSize {limits.page_size}"
        )
    if shapes.max_batch_size < limits.max_running:
        problems.append(
            f"it was built for {shapes.max_batch_size} sequences at once, {limits.max_running} may "
            "run; lower --max-batch-size or build it with a larger shapes.maxBatchSize"
        )
    if shapes.max_sequence_length < limits.max_sequence_length:
        problems.append(
            f"its sequences have at most {shapes.max_sequence_length} tokens, the served engine's "
            f"{limits.max_sequence_length}; build it with a larger shapes.maxSequenceLength"
        )
    if short_length(draft.manifest) not in (0, limits.short_length):
        problems.append(
            f"it rotates texts of up to {short_length(draft.manifest)} tokens otherwise than longer "
            f"ones (LongRoPE), which the served engine does up to {limits.short_length} (0: nowhere); "
            f"take a model with the same original_max_position_embeddings, or one without LongRoPE"
        )
    return problems


def short_length(manifest: Manifest) -> int:
    """Tokens of the longest text that an engine computes otherwise than longer ones; 0: none is."""
    short = manifest.model.short_texts
    return short.up_to if short else 0


def _digest(directory: EngineDirectory) -> str | None:
    entries = directory.manifest.files
    return next((entry.sha256 for entry in entries if entry.path == _TOKENIZER), None)
