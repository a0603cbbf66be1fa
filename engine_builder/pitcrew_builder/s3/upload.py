"""Uploading a file: in one request where it is small, in parts where it is not.

The parts of an upload that was cut off stay on the server until somebody completes or aborts it.
The next upload of the same file to the same path goes on with them: a part whose ETag is the MD5
of our bytes is not sent again.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import md5
from pathlib import Path
from typing import Any

from pitcrew_builder.errors import StorageUnreachable
from pitcrew_builder.s3 import objects as s3
from pitcrew_builder.s3.faults import translated

PART = 16 << 20
"""Bytes of a part, and the size up to which one request carries the whole file."""

MOST_PARTS = 10_000
CONCURRENT = 4
ATTEMPTS = 3


def upload(
    objects: s3.Objects,
    path: str,
    file: Path,
    on_bytes: Callable[[int], None],
    part: int = PART,
) -> None:
    """Make `path` an object with the bytes of `file`. Raises `BuildError`."""
    size = file.stat().st_size
    if size <= part:
        objects.put(path, file.read_bytes())
        on_bytes(size)
        return
    multipart = _Multipart(objects, path, file, max(part, -(-size // MOST_PARTS)), on_bytes)
    for _ in range(ATTEMPTS):
        try:
            multipart.run()
            return
        except objects.client.exceptions.NoSuchUpload:
            # Somebody with the same bytes went on with the same parts, and completed them first.
            if objects.size(path) == size:
                return
    raise StorageUnreachable(
        f"uploads to {objects.address.key(path)} are aborted while they run; see who cleans the "
        f"bucket, and try again"
    )


def abort_uploads(objects: s3.Objects, before: datetime) -> int:
    """Give up the uploads that began before a time; returns how many."""
    old = [item for item in _uploads(objects, "") if item["Initiated"] < before]
    for item in old:
        with (
            translated(objects.address, "cleaning"),
            suppress(objects.client.exceptions.NoSuchUpload),
        ):
            objects.client.abort_multipart_upload(
                Bucket=objects.address.bucket, Key=item["Key"], UploadId=item["UploadId"]
            )
    return len(old)


@dataclass(frozen=True, slots=True)
class _Multipart:
    """One file on its way, in parts of one size."""

    objects: s3.Objects
    path: str
    file: Path
    part: int
    on_bytes: Callable[[int], None]

    def run(self) -> None:
        """Find or begin an upload, send what is missing, and complete it."""
        where = self.objects.where(self.path)
        with translated(self.objects.address, "uploading to"):
            upload, done = self._resume()
            if upload is None:
                upload = self.objects.client.create_multipart_upload(**where)["UploadId"]
            parts = sorted(self._send_all({**where, "UploadId": upload}, done))
            self.objects.client.complete_multipart_upload(
                **where,
                UploadId=upload,
                MultipartUpload={"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in parts]},
            )

    def _resume(self) -> tuple[str | None, Mapping[int, str]]:
        """The newest upload to this path that somebody left, and the ETags of its parts."""
        where = self.objects.where(self.path)
        left = [item for item in _uploads(self.objects, self.path) if item["Key"] == where["Key"]]
        if not left:
            return None, {}
        newest = max(left, key=lambda item: item["Initiated"])["UploadId"]
        pages = self.objects.client.get_paginator("list_parts").paginate(**where, UploadId=newest)
        parts = {
            item["PartNumber"]: item["ETag"] for page in pages for item in page.get("Parts", ())
        }
        return newest, parts

    def _send_all(
        self, upload: Mapping[str, str], done: Mapping[int, str]
    ) -> Iterator[tuple[int, str]]:
        """Number and ETag of every part; a few are in memory and under way at a time."""
        count = -(-self.file.stat().st_size // self.part)
        with ThreadPoolExecutor(CONCURRENT, thread_name_prefix="upload") as pool:
            pending: list[Future[tuple[int, str]]] = [
                pool.submit(self._send, upload, number, done) for number in range(1, count + 1)
            ]
            try:
                for future in pending:
                    yield future.result()
            finally:
                for future in pending:
                    future.cancel()

    def _send(
        self, upload: Mapping[str, str], number: int, done: Mapping[int, str]
    ) -> tuple[int, str]:
        with self.file.open("rb") as stream:
            stream.seek((number - 1) * self.part)
            body = stream.read(self.part)
        tag = f'"{md5(body, usedforsecurity=False).hexdigest()}"'
        if done.get(number) != tag:
            answer = self.objects.client.upload_part(
                **upload, PartNumber=number, Body=body, ContentMD5=s3.md5(body)
            )
            tag = answer["ETag"]
        self.on_bytes(len(body))
        return number, tag


def _uploads(objects: s3.Objects, path: str) -> list[dict[str, Any]]:
    with translated(objects.address, "listing uploads of"):
        pages = objects.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=objects.address.bucket, Prefix=objects.address.key(path)
        )
        return [item for page in pages for item in page.get("Uploads", ())]
