"""Measured times of kernels, kept between builds: TensorRT need not measure a kernel twice."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pitcrew_builder.targets.trt.library import Native


@contextmanager
def timing_cache(config: Native, file: Path) -> Iterator[None]:
    """Start from what `file` holds, and keep there what is known in the end.

    A cache of another GPU or version is not taken, and replaced. Two builds at once each leave a
    whole file; the later one stays.
    """
    cache = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    yield
    _replace(file, bytes(config.get_timing_cache().serialize()))


def _replace(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
