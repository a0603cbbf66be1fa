import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from pitcrew_runtime.errors import EngineCorrupt
from pitcrew_runtime.text.tokenizer import Tokenizer


def tokenizer(writes_bos: bool, **config: object) -> Tokenizer:
    backend = Backend(models.WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<s>"])
    if writes_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return Tokenizer(backend, {"bos_token": "<s>", **config})


@pytest.mark.parametrize(
    ("found", "ids"),
    [
        (tokenizer(writes_bos=False), [1, 2]),
        (tokenizer(writes_bos=True), [0, 1, 2]),
        (tokenizer(writes_bos=False, add_bos_token=True), [0, 1, 2]),
        (tokenizer(writes_bos=True, add_bos_token=True), [0, 1, 2]),
        (tokenizer(writes_bos=False, add_bos_token=False), [1, 2]),
    ],
)
def test_the_first_token_is_written_once_or_not(found: Tokenizer, ids: list[int]) -> None:
    assert found.encode("a b") == ids
    assert found.encode_rendered("<s>a b") == [0, 1, 2]


def test_special_tokens_of_older_files() -> None:
    found = tokenizer(False, eos_token={"content": "</s>", "lstrip": False}, pad_token=None)
    assert found.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_rubbish_is_corrupt() -> None:
    with pytest.raises(EngineCorrupt, match="tokenizer cannot be loaded"):
        Tokenizer.load(b"{}", b"{}")
