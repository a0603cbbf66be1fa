"""The base of documents that others write."""

from pydantic import BaseModel, ConfigDict


class Tolerant(BaseModel):
    """Frozen, and blind to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
