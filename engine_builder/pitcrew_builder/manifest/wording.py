"""How people are told of digests and sizes, everywhere alike."""

from typing import Final

_SHORT: Final = 12
_STEP: Final = 1024


def short_id(digest: str) -> str:
    """As many hex digits of an engine's id, a commit or a checksum as tell them apart."""
    return digest[:_SHORT]


def size_text(count: float) -> str:
    """Bytes in the largest binary unit of which there is one: 12 B, 945.2 MiB, 79.65 GiB."""
    if count < _STEP:
        return f"{count:.0f} B"
    for unit, digits in (("KiB", 1), ("MiB", 1), ("GiB", 2)):
        count /= _STEP
        if count < _STEP:
            return f"{count:,.{digits}f} {unit}"
    return f"{count / _STEP:,.2f} TiB"
