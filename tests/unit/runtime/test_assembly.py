from pathlib import Path

import pytest

from pitcrew_builder.manifest import FileEntry, Manifest, ShortTexts
from pitcrew_runtime.assembly import Tuning, limits_for
from pitcrew_runtime.drafting import check_draft
from pitcrew_runtime.engine_directory import EngineDirectory
from pitcrew_runtime.errors import InvalidOption, NotEnoughMemory
from pitcrew_runtime.networks import SMALL_ENGINE, decoding_threads
from pitcrew_runtime.sizing import context_bytes, pool_pages, within_pool
from tests.unit.runtime.test_server import manifest as echo_manifest

MANIFEST: Manifest = echo_manifest()
PAGE_BYTES = 4 * MANIFEST.kv_bytes_per_token
USEFUL = 4 * 64 // 4
"""Pages that a full batch of longest sequences can use."""


def pages(wanted: int | None, free: int) -> int:
    return pool_pages(MANIFEST.kv_bytes_per_token, limits_for(MANIFEST, Tuning()), wanted, free)


def test_the_pool_takes_a_fraction_of_what_is_free() -> None:
    assert pages(None, 20 * PAGE_BYTES) == 16
    assert pages(None, 1 << 40) == USEFUL


def test_the_pool_takes_what_it_is_given_up_to_its_use() -> None:
    assert pages(7 * PAGE_BYTES + 1, 1 << 40) == 7
    assert pages(1 << 50, 1 << 40) == USEFUL


@pytest.mark.parametrize(
    ("wanted", "free", "says"),
    [
        (PAGE_BYTES - 1, 1 << 40, r"a KV page takes 32 B, but the pool may have 31 B"),
        (None, PAGE_BYTES, r"raise kvMemory \(--kv-memory\) or the memory limit"),
        (9 * PAGE_BYTES, 8 * PAGE_BYTES, "only 256 bytes are free"),
    ],
)
def test_a_pool_that_does_not_fit(wanted: int | None, free: int, says: str) -> None:
    with pytest.raises(NotEnoughMemory, match=says):
        pages(wanted, free)


@pytest.mark.parametrize(
    ("pool", "free", "contexts"),
    [(1 << 30, 4 << 30, 1 << 30), (1 << 30, 5 << 28, 0), (1 << 10, 4 << 30, 32 << 20)],
)
def test_contexts_are_as_large_as_the_pool_where_there_is_room(
    pool: int, free: int, contexts: int
) -> None:
    assert context_bytes(pool, free) == contexts


def test_sequences_are_no_longer_than_the_pool() -> None:
    limits = limits_for(MANIFEST, Tuning())
    assert within_pool(limits, 5).max_sequence_length == 20
    assert within_pool(limits, 500).max_sequence_length == 64


def test_the_batch_is_no_larger_than_the_engine() -> None:
    assert limits_for(MANIFEST, Tuning(max_batch_size=2)).max_running == 2
    with pytest.raises(InvalidOption, match="--max-batch-size 5: the engine was built for 4"):
        limits_for(MANIFEST, Tuning(max_batch_size=5))


def test_a_step_has_room_for_prompts_beside_a_full_batch() -> None:
    assert limits_for(MANIFEST, Tuning(max_step_tokens=5)).max_step_tokens == 5
    with pytest.raises(
        InvalidOption, match=r"--max-step-tokens 4: .* give at least 5, or a smaller"
    ):
        limits_for(MANIFEST, Tuning(max_step_tokens=4))


def test_one_thread_decodes_a_small_engine() -> None:
    file = FileEntry(path="rank0/model.onnx.data", size=SMALL_ENGINE, sha256="0" * 64)
    small = MANIFEST.model_copy(update={"files": (file,)})
    large = MANIFEST.model_copy(update={"files": (file, file)})
    assert [decoding_threads(one, 8) for one in (small, large)] == [1, 8]
    assert decoding_threads(large, 1) == 1


def directory(short: ShortTexts | None) -> EngineDirectory:
    facts = MANIFEST.model.model_copy(update={"short_texts": short})
    return EngineDirectory(Path(), MANIFEST.model_copy(update={"model": facts}))


@pytest.mark.parametrize(
    ("served", "draft", "fits"), [(32, 32, True), (32, 0, True), (32, 16, False), (0, 32, False)]
)
def test_a_draft_engine_has_short_texts_of_the_same_length_or_none(
    served: int, draft: int, fits: bool
) -> None:
    texts = {0: None} | {n: ShortTexts(up_to=n, first_position=64) for n in (16, 32)}
    target = directory(texts[served])
    limits = limits_for(target.manifest, Tuning())
    assert limits.short_length == served
    if fits:
        check_draft(target, directory(texts[draft]), limits)
        return
    with pytest.raises(InvalidOption, match=rf"up to {draft} tokens otherwise .* up to {served} "):
        check_draft(target, directory(texts[draft]), limits)
