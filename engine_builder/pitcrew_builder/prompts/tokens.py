"""From prompts to token ids, as the model would see them."""

from collections.abc import Sequence
from typing import Any

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import CheckpointCorrupt, InvalidSpec
from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.prompts.source import Prompt

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"


class Encoder:
    """The checkpoint's tokenizer, and its chat template for prompts that are chats."""

    def __init__(self, checkpoint: Directory, facts: ModelFacts) -> None:
        """Raises `BuildError` for a tokenizer that is missing or cannot be read."""
        self._tokenizer = _tokenizer(checkpoint)
        self._checkpoint = checkpoint
        self._facts = facts

    def encode(self, prompts: Sequence[Prompt], limit: int) -> list[list[int]]:
        """Each prompt's first `limit` tokens; those of fewer than two, which predict nothing, are
        left out. Raises `BuildError` where the tokenizer does not fit the vocabulary.
        """
        encoded = [self._one(prompt)[:limit] for prompt in prompts]
        for ids in encoded:
            self._check(ids)
        return [ids for ids in encoded if len(ids) > 1]

    def ask(self, prompt: Prompt) -> list[int]:
        """All tokens of a prompt, up to where the answer begins. Raises `BuildError`."""
        ids = self._one(prompt, to_answer=True)
        self._check(ids)
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens; special ones have none."""
        decoded: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return decoded

    def _check(self, ids: Sequence[int]) -> None:
        highest = max(ids, default=0)
        if highest >= self._facts.vocab_size:
            raise CheckpointCorrupt(
                f"tokenizer.json makes token {highest} outside of config.json's vocab_size "
                f"{self._facts.vocab_size}; take all files from the same checkpoint"
            )

    def _one(self, prompt: Prompt, *, to_answer: bool = False) -> list[int]:
        if prompt.messages:
            text = _render(self._checkpoint, prompt, self._tokenizer, self._facts, to_answer)
            chat: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            return chat
        ids: list[int] = self._tokenizer.encode(prompt.text).ids
        begin = self._facts.bos_token_id
        return ids if begin is None or ids[:1] == [begin] else [begin, *ids]


def _tokenizer(checkpoint: Directory) -> Any:  # noqa: ANN401
    from tokenizers import Tokenizer

    if not checkpoint.has(TOKENIZER):
        raise InvalidSpec(
            f"prompts need a tokenizer, and the checkpoint has no {TOKENIZER}; add it, or leave "
            f"quantization and proof out"
        )
    content = checkpoint.read_small(TOKENIZER)
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:
        # The library raises bare exceptions.
        raise CheckpointCorrupt(f"{TOKENIZER} cannot be read: {error}; copy it again") from error


def _render(
    checkpoint: Directory,
    prompt: Prompt,
    tokenizer: Any,  # noqa: ANN401
    facts: ModelFacts,
    to_answer: bool,
) -> str:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if not checkpoint.has(TEMPLATE):
        raise InvalidSpec(
            f"a prompt has messages, and the checkpoint has no {TEMPLATE} to write them by; give "
            f"texts instead"
        )
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    ids = {"bos_token": facts.bos_token_id, "eos_token": next(iter(facts.eos_token_ids), None)}
    special = {
        name: tokenizer.id_to_token(token) or "" for name, token in ids.items() if token is not None
    }
    messages = [turn.model_dump() for turn in prompt.messages]
    try:
        template = environment.from_string(checkpoint.read_small(TEMPLATE).decode())
        return template.render(messages=messages, add_generation_prompt=to_answer, **special)
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidSpec(
            f"{TEMPLATE} does not render a prompt's messages: {error}; give texts instead"
        ) from error
