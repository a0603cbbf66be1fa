"""The engine store: complete engines, found by what they are made of, and nothing else visible.

`local` keeps engines on a volume, `s3` in object storage; both are an `EngineStore`.
"""

from pitcrew_builder.store.engine import open_engine
from pitcrew_builder.store.local import STAGING, Store
from pitcrew_builder.store.protocol import EngineStore, Kept

__all__ = ["STAGING", "EngineStore", "Kept", "Store", "open_engine"]
