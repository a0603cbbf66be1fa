"""Where in object storage: a bucket, a prefix, and whose server."""

import re
from dataclasses import dataclass
from typing import Self

from pitcrew_builder.errors import InvalidSpec

SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class S3Address:
    """A bucket and a prefix in it. Credentials come from the environment, never from here."""

    bucket: str
    prefix: str = ""
    """Without slashes at its ends; empty for the whole bucket."""
    endpoint: str | None = None
    """URL of an S3-compatible server; None for AWS."""
    region: str | None = None

    @classmethod
    def parse(cls, url: str, endpoint: str | None = None, region: str | None = None) -> Self:
        """Read `s3://bucket/prefix`. Raises `InvalidSpec`."""
        bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        if not url.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
            raise InvalidSpec(f"'{url}' is no S3 address; write s3://bucket or s3://bucket/prefix")
        if endpoint is not None and not re.match(r"https?://", endpoint):
            raise InvalidSpec(f"endpoint '{endpoint}' is no URL; write http(s)://host[:port]")
        return cls(bucket, prefix.strip("/"), endpoint, region)

    @property
    def url(self) -> str:
        """The address as people write it."""
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, path: str) -> str:
        """The key of an object from its path below the prefix."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def path(self, key: str) -> str:
        """The path below the prefix, from a key."""
        return key.removeprefix(f"{self.prefix}/") if self.prefix else key
