"""A repository on a Hugging Face compatible hub, pinned to a commit.

The hub lists size and SHA-256 of every large file, so an engine's identity is known, and an
existing engine is found, before a single weight is downloaded. Files go to
`<cache>/<owner--name>/<commit>/`, under their own names, and only the ones that are needed.
"""

import re
from pathlib import Path

from pitcrew_builder.checkpoint.digests import DigestCache
from pitcrew_builder.checkpoint.directory import MODEL, Directory, Kind
from pitcrew_builder.disk import room_for
from pitcrew_builder.errors import CheckpointCorrupt, CheckpointNotFound
from pitcrew_builder.progress import Tracker
from pitcrew_builder.sources.hub_client import HubClient, RemoteFile
from pitcrew_builder.sources.remote import require_config, small_names, weight_names
from pitcrew_builder.sources.source import Located
from pitcrew_builder.spec import HuggingFaceSource


def locate(
    source: HuggingFaceSource,
    cache: Path,
    digests: DigestCache,
    tracker: Tracker,
    kind: Kind = MODEL,
) -> Located:
    """Resolve the revision, download the small files, and learn the weights' digests."""
    client = HubClient(source)
    commit, remote = client.list_files()
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise CheckpointNotFound(
            f"{source.repo}: the hub resolves revision '{source.revision}' to '{commit[:60]}', no "
            f"commit; check the revision and the endpoint"
        )
    require_config(remote, source.repo, kind)
    download = _Download(client, cache / source.repo.replace("/", "--") / commit, commit, digests)
    small = [remote[name] for name in small_names(remote, kind)]
    download.bring(small, tracker)
    directory = Directory.of(download.directory)
    weights = [remote[name] for name in weight_names(directory, remote, source.repo, kind)]
    # A weight that the hub keeps outside of large-file storage has no listed digest.
    download.bring([file for file in weights if file.sha256 is None], tracker)
    inputs = {file.name: download.digest(file) for file in [*small, *weights]}
    return Located(source.repo, commit, inputs, directory, lambda: download.bring(weights, tracker))


class _Download:
    """Files of one commit on their way to one directory."""

    def __init__(
        self, client: HubClient, directory: Path, commit: str, digests: DigestCache
    ) -> None:
        self.directory = directory
        self._client = client
        self._commit = commit
        self._digests = digests

    def bring(self, files: list[RemoteFile], tracker: Tracker) -> None:
        """Download what is not here yet, and check it against what the hub lists."""
        self.directory.mkdir(parents=True, exist_ok=True)
        absent = [file for file in files if not (self.directory / file.name).exists()]
        total = sum(file.size for file in absent)
        count = tracker.counter(total, "downloading")
        for file in absent:
            partial = self.directory / f".{file.name}.partial"
            with room_for(self.directory, file.size, f"downloading {file.name}"):
                self._client.download(file, self._commit, partial, count)
            self._check(file, partial)
            partial.replace(self.directory / file.name)

    def digest(self, file: RemoteFile) -> str:
        """The SHA-256 of a file: the listed one, or that of the bytes that came."""
        return file.sha256 or self._digests.sha256(self.directory / file.name)

    def _check(self, file: RemoteFile, partial: Path) -> None:
        if file.sha256 is not None and self._digests.sha256(partial) != file.sha256:
            partial.unlink()
            raise CheckpointCorrupt(
                f"{file.name} arrived with another digest than the hub lists; the copy was "
                f"removed, build again to download it anew"
            )
