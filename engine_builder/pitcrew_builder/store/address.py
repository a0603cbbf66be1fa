"""From what a user writes after `--store` to a store."""

import os
from pathlib import Path
from typing import TypeAlias

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.s3.address import SCHEME, S3Address
from pitcrew_builder.store.local import Store
from pitcrew_builder.store.protocol import EngineStore

StoreAddress: TypeAlias = Path | S3Address
"""A directory, or a place in object storage."""


_PREFIX = "PITCREW_STORE_"


def parse_store(text: str, endpoint: str | None = None, region: str | None = None) -> StoreAddress:
    """Read a directory or `s3://bucket/prefix`. Raises `InvalidSpec`."""
    if not text:
        raise InvalidSpec("--store is empty; name a directory or s3://bucket/prefix")
    return S3Address.parse(text, endpoint, region) if text.startswith(SCHEME) else Path(text)


def open_store(address: StoreAddress, work: Path) -> EngineStore:
    """The store at an address; one that is not on this machine stages its builds under `work`."""
    if isinstance(address, Path):
        return Store(address)
    # The SDK takes a second to import, and most builds need none.
    from pitcrew_builder.s3.keys import Keys
    from pitcrew_builder.s3.objects import Objects
    from pitcrew_builder.store.s3 import S3Store

    return S3Store(Objects(address, Keys.of(os.environ, _PREFIX)), work)
