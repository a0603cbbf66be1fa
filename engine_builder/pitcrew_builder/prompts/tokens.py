"""From prompts to token ids, as the model would see them."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pitcrew_builder.checkpoint.config import parse_object
from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import CheckpointCorrupt, InvalidSpec
from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.prompts.source import Prompt

if TYPE_CHECKING:
    from pitcrew_builder.chat import Template

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"


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
            text = self._rendered(prompt, to_answer=to_answer)
            chat: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            return chat
        ids: list[int] = self._tokenizer.encode(prompt.text).ids
        begin = self._facts.bos_token_id
        return ids if begin is None or ids[:1] == [begin] else [begin, *ids]

    def _rendered(self, prompt: Prompt, *, to_answer: bool) -> str:
        """A chat as it will be served."""
        messages, template = [turn.model_dump() for turn in prompt.messages], self._template
        try:
            return template.render(messages, to_answer=to_answer)
        except Exception as error:  # whatever a template does
            raise InvalidSpec(
                f"the checkpoint's chat template does not render a prompt's messages: {error}; give "
                f"texts instead"
            ) from error

    @cached_property
    def _template(self) -> "Template":
        return _template(self._checkpoint)


def _tokenizer(checkpoint: Directory) -> Any:  # noqa: ANN401
    from tokenizers import Tokenizer

    if not checkpoint.has(TOKENIZER):
        raise InvalidSpec(
            f"prompts need a tokenizer, and the checkpoint has no {TOKENIZER}; add it, or leave "
            f"quantization and proof out"
        )
    content = checkpoint.read_small(TOKENIZER)
    try:
        found = Tokenizer.from_buffer(content)
    except Exception as error:
        # The library raises bare exceptions.
        raise CheckpointCorrupt(f"{TOKENIZER} cannot be read: {error}; copy it again") from error
    # A checkpoint may carry the truncation or padding of its training.
    found.no_truncation()
    found.no_padding()
    return found


def _template(checkpoint: Directory) -> "Template":
    from jinja2 import TemplateError

    from pitcrew_builder.chat import Template, find_template, special_tokens

    known = checkpoint.has(SETTINGS)
    settings = parse_object(checkpoint.read_small(SETTINGS), SETTINGS) if known else {}
    try:
        file = checkpoint.read_small(TEMPLATE).decode() if checkpoint.has(TEMPLATE) else None
        source = find_template(settings, file)
        template = None if source is None else Template(source, special_tokens(settings))
    except (TemplateError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise InvalidSpec(
            f"the checkpoint's chat template is broken: {error}; give texts instead"
        ) from error
    if template is None:
        raise InvalidSpec(
            f"a prompt has messages, and the checkpoint has no {TEMPLATE} to write them by, nor "
            f"chat_template in {SETTINGS}; give texts instead"
        )
    return template
