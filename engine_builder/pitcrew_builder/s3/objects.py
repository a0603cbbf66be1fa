"""The one place that speaks S3, by the AWS SDK's core (botocore).

Requests are retried by the SDK; a download goes on at the byte where its connection broke. Bodies
carry an MD5 that the server checks, since newer checksums are not known to every compatible server.
"""

import base64
import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from botocore.session import Session

from pitcrew_builder.errors import StorageChanged, StorageUnreachable
from pitcrew_builder.s3.address import S3Address
from pitcrew_builder.s3.faults import code, status, translated
from pitcrew_builder.s3.keys import Keys

NO_KEYS = Keys()
BLOCK = 1 << 20
DELETE_BATCH = 1000
RESUMES = 5
"""How often in a row a download may break without a new byte before it is given up."""

_CONFIG = Config(
    connect_timeout=10,
    read_timeout=60,
    retries={"mode": "standard"},
    max_pool_connections=16,
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    user_agent_extra="pitcrew",
)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the server lists it."""

    path: str
    """Below the address's prefix."""
    size: int
    """Bytes."""
    etag: str
    modified: datetime


class Objects:
    """The objects below one address. Safe to use from several threads."""

    def __init__(self, address: S3Address, keys: Keys = NO_KEYS) -> None:
        """Sign with `keys`, or with what the SDK finds. Raises `StorageRefused`."""
        self.address = address
        # Path style is what every compatible server understands; AWS wants the bucket in the host.
        style = {"addressing_style": "path" if address.endpoint else "auto"}
        with translated(address, "opening"):
            session = Session()
            # Compatible servers ignore the region, and signing needs one.
            region = address.region or session.get_config_variable("region") or "us-east-1"
            self.client: Any = session.create_client(
                "s3",
                region_name=region,
                endpoint_url=address.endpoint,
                **keys.arguments(),
                config=_CONFIG.merge(Config(s3=style)),
            )

    def where(self, path: str) -> dict[str, str]:
        """The arguments that name an object in every request."""
        return {"Bucket": self.address.bucket, "Key": self.address.key(path)}

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Every object whose path begins with `folder`, in the order of their names."""
        with translated(self.address, "listing"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.address.bucket, Prefix=self.address.key(folder)
            )
            for page in pages:
                yield from map(self._info, page.get("Contents", ()))

    def size(self, path: str) -> int | None:
        """Bytes of an object; None where there is none."""
        with translated(self.address, "reading"):
            try:
                return int(self.client.head_object(**self.where(path))["ContentLength"])
            except ClientError as error:
                # The answer to HEAD has no body, so the bucket's own absence looks the same.
                if status(error) == 404:
                    return None
                raise

    def read(self, path: str, limit: int = 64 << 20) -> bytes | None:
        """The bytes of a small object; None where there is none."""
        with translated(self.address, "reading"):
            try:
                answer = self.client.get_object(**self.where(path))
            except ClientError as error:
                if status(error) == 404 and code(error) != "NoSuchBucket":
                    return None
                raise
            content: bytes = answer["Body"].read(limit + 1)
        if len(content) > limit:
            raise StorageChanged(f"{path} has more than {limit} bytes; it is none of Pitcrew's")
        return content

    def put(self, path: str, content: bytes) -> None:
        """Write a small object."""
        with translated(self.address, "writing to"):
            self.client.put_object(**self.where(path), Body=content, ContentMD5=md5(content))

    def put_new(self, path: str, content: bytes) -> bool:
        """Write a small object unless one of that path exists; whether this call wrote it."""
        with translated(self.address, "writing to"):
            try:
                self.client.put_object(
                    **self.where(path), Body=content, ContentMD5=md5(content), IfNoneMatch="*"
                )
            except ClientError as error:
                # 409: another conditional write of the same key is under way, and may win.
                if status(error) not in (409, 412):
                    raise
                return False
        return True

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; absent ones are no error."""
        keys = [{"Key": self.address.key(path)} for path in paths]
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            with translated(self.address, "deleting from"):
                answer = self.client.delete_objects(
                    Bucket=self.address.bucket, Delete={"Objects": batch, "Quiet": True}
                )
            for fault in answer.get("Errors", ()):
                raise StorageUnreachable(
                    f"{fault.get('Key')} cannot be deleted ({fault.get('Code')}); allow "
                    f"s3:DeleteObject under {self.address.url}"
                )

    def download(
        self, item: ObjectInfo, target: Path, on_bytes: Callable[[int], None] = lambda _: None
    ) -> None:
        """Complete `target`, from where an earlier attempt left it, with the object as listed."""
        with target.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if stream.tell() > item.size:
                stream.truncate(0)
            on_bytes(stream.tell())
            self._whole(item, stream.tell, stream.write, on_bytes)

    def _whole(
        self,
        item: ObjectInfo,
        position: Callable[[], int],
        write: Callable[[bytes], int],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Pass on the object's bytes from `position()` to the last, however often it breaks."""
        idle = 0
        while (done := position()) < item.size:
            self._stream(item, done, write, on_bytes)
            idle = 0 if position() > done else idle + 1
            if idle >= RESUMES:
                raise StorageUnreachable(
                    f"{item.path} breaks off at byte {done:,} of {item.size:,} again and again; "
                    f"try again later"
                )

    def digest(self, item: ObjectInfo) -> str:
        """The SHA-256 of an object's bytes, as 64 hex digits; it is read whole."""
        seen = hashlib.sha256()
        done = 0

        def take(block: bytes) -> int:
            seen.update(block)
            return len(block)

        def count(amount: int) -> None:
            nonlocal done
            done += amount

        self._whole(item, lambda: done, take, count)
        return seen.hexdigest()

    def _stream(
        self,
        item: ObjectInfo,
        start: int,
        write: Callable[[bytes], int],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Pass on the object's bytes from `start` as far as the connection lasts."""
        with translated(self.address, "downloading from"):
            try:
                answer = self.client.get_object(
                    **self.where(item.path), Range=f"bytes={start}-", IfMatch=item.etag
                )
                for block in answer["Body"].iter_chunks(BLOCK):
                    write(block)
                    on_bytes(len(block))
            except ClientError as error:
                if status(error) in (404, 412, 416):
                    raise StorageChanged(
                        f"{item.path} was changed or removed while it was read; start again"
                    ) from None
                raise
            except (HTTPClientError, IncompleteReadError):
                return

    def _info(self, entry: Any) -> ObjectInfo:  # noqa: ANN401
        return ObjectInfo(
            path=self.address.path(entry["Key"]),
            size=entry["Size"],
            etag=entry["ETag"],
            modified=entry["LastModified"],
        )


def md5(content: bytes) -> str:
    """The `Content-MD5` of a body."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
