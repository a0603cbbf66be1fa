import threading
import time

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


def test_long_texts_are_as_short_ones() -> None:
    found = tokenizer(writes_bos=True)
    assert found.encode("a b " * 5000) == [0, *[1, 2] * 5000]
    assert found.encode_rendered("<s>" + "a b " * 5000) == [0, *[1, 2] * 5000]
    assert found.decode([0, *[1, 2] * 5000]) == " ".join(["a b"] * 5000)
    assert found.decode([0, *[1, 2] * 5000], special=True).startswith("<s> a b a")


@pytest.mark.parametrize("long", [True, False], ids=["encode", "decode"])
def test_others_go_on_while_a_long_text_is_tokenized(long: bool) -> None:
    """The library holds the interpreter unless it is given a batch: nobody got a token meanwhile."""
    found, done, turns = tokenizer(writes_bos=True), threading.Event(), 0

    def work() -> None:
        if long:
            found.encode("a b " * 300_000)
        else:
            found.decode([1, 2] * 300_000)
        done.set()

    before = time.monotonic()
    worker = threading.Thread(target=work)
    worker.start()
    while not done.wait(0.002):
        turns += 1
    worker.join()
    assert turns >= 5, f"{turns} turns in {time.monotonic() - before:.1f} s"
