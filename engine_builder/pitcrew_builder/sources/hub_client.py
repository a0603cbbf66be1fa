"""The one place that speaks to a hub, by the huggingface_hub library.

The library resolves, authenticates and streams. Resuming is ours: it gives a partial file a random
name and removes it on failure, while a build Job that is killed at 90 % wants the other 10 %.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The transport's own base class, whichever client the library uses.
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from pitcrew_builder.errors import BuildError, CheckpointNotFound, HubUnreachable, InvalidSpec
from pitcrew_builder.spec import HuggingFaceSource

TIMEOUT = 30.0
"""Seconds for one request of metadata."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it."""

    name: str
    size: int
    """Bytes."""
    sha256: str | None
    """None for small files, which the hub keeps in git."""


class HubClient:
    """Lists and downloads the files of one repository. The token comes from `HF_TOKEN`."""

    def __init__(self, source: HuggingFaceSource) -> None:
        self._source = source
        self._api = HfApi(endpoint=source.endpoint)

    def list_files(self) -> tuple[str, Mapping[str, RemoteFile]]:
        """The commit of the revision, and the repository's files at it by name."""
        with self._translated():
            info = self._api.model_info(
                self._source.repo,
                revision=self._source.revision,
                files_metadata=True,
                timeout=TIMEOUT,
            )
        files = {
            item.rfilename: RemoteFile(
                item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else None
            )
            for item in info.siblings or ()
        }
        return info.sha or "", files

    def download(
        self, file: RemoteFile, commit: str, partial: Path, on_bytes: Callable[[int], None]
    ) -> None:
        """Complete `partial`, from where an earlier attempt left it."""
        url = hf_hub_url(self._source.repo, file.name, revision=commit, endpoint=self._api.endpoint)
        with self._translated(), partial.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            done = stream.tell()
            if done > file.size:
                stream.truncate(0)
                done = 0
            on_bytes(done)
            http_get(
                url,
                stream,
                resume_size=done,
                headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                expected_size=file.size,
                tqdm_class=_meter(on_bytes),
            )
            stream.flush()
            os.fsync(stream.fileno())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except HFValidationError as error:
            raise InvalidSpec(f"source.repo '{self._source.repo}': {error}") from None
        except (OSError, TransportError) as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> Exception:
        where = f"{self._source.repo}@{self._source.revision} at {self._api.endpoint}"
        match error:
            case GatedRepoError():
                return CheckpointNotFound(
                    f"{where} is gated; accept its terms and give a token that may read it (HF_TOKEN)"
                )
            case RevisionNotFoundError():
                return CheckpointNotFound(f"{where}: no such revision; check source.revision")
            case RepositoryNotFoundError() | RemoteEntryNotFoundError():
                return CheckpointNotFound(
                    f"{where} does not exist, or needs a token (HF_TOKEN); check source.repo"
                )
            case HfHubHTTPError():
                return _translate_status(where, error)
            case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return error
        return HubUnreachable(
            f"{where} does not answer ({_brief(error)}); the build resumes where it stopped, check "
            f"the endpoint and the network if this lasts"
        )


def _translate_status(where: str, error: HfHubHTTPError) -> BuildError:
    status = error.response.status_code
    if status in (401, 403):
        return CheckpointNotFound(f"{where} refuses access ({status}); check the token (HF_TOKEN)")
    if status == 404:
        return CheckpointNotFound(f"{where}: not found; check source.repo and source.endpoint")
    return HubUnreachable(f"{where} answers {status}; the build will be tried again")


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _meter(on_bytes: Callable[[int], None]) -> Any:  # noqa: ANN401
    """Something that the library takes for a progress bar's class."""

    class Meter:
        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, amount: int) -> None:
            on_bytes(amount)

    return Meter
