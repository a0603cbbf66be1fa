"""Digests and sizes as people read them."""

import pytest

from pitcrew_builder.manifest import short_id, size_text


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (11_000_000, "10.5 MiB"),
        (1 << 30, "1.00 GiB"),
        (1 << 42, "4.00 TiB"),
        (1 << 52, "4,096.00 TiB"),
    ],
)
def test_sizes(count: int, told: str) -> None:
    assert size_text(count) == told


def test_a_short_id_begins_the_whole_one() -> None:
    assert short_id("7c1d" * 16) == "7c1d7c1d7c1d"
