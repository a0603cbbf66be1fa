"""A hub of our own on loopback: repository info, and files by commit with ranges.

It speaks what the huggingface_hub library asks for, and no more. Faults are chosen by the test.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository, what was asked of it, and how it misbehaves."""

    root: Path
    repo: str = "acme/tiny"
    revisions: tuple[str, ...] = ("main", "v1", COMMIT)
    token: str | None = None
    status: int | None = None
    """Answer everything with this."""
    lie: bool = False
    """List another digest of the weights than theirs."""
    cut_after: int | None = None
    """Send this many bytes of the next large file, then hang up; once."""
    stall: Event | None = None
    """Keep large files waiting until this is set, then hang up."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range header, in order."""
    endpoint: str = ""

    def downloads(self) -> list[str]:
        """Names of the files that were sent."""
        return [
            path.rsplit("/", 1)[-1]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def serve(hub: Hub, host: str = "127.0.0.1", port: int = 0) -> Iterator[Hub]:
    """Run the hub until the block ends."""
    server = ThreadingHTTPServer((host, port), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://{host}:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.status is not None:
            return self._refuse(self.hub.status, "")
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse(401, "GatedRepo")
        info = re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
        match = info or file
        if match is None or match[1] != self.hub.repo:
            return self._refuse(404, "RepoNotFound")
        if (match[2] or "main") not in self.hub.revisions:
            return self._refuse(404, "RevisionNotFound")
        return self._info() if info else self._file(match[3])

    def _info(self) -> None:
        siblings = [self._sibling(file) for file in sorted(self.hub.root.iterdir())]
        document = {"id": self.hub.repo, "sha": COMMIT, "siblings": siblings}
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _sibling(self, file: Path) -> dict[str, object]:
        content = file.read_bytes()
        entry: dict[str, object] = {"rfilename": file.name, "size": len(content)}
        if file.suffix == ".safetensors":
            seen = b"lie" if self.hub.lie else content
            digest = hashlib.sha256(seen).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, name: str) -> None:
        file = self.hub.root / name
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        content = file.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = self._start()
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(206 if start else 200, content[start:], headers)

    def _start(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        return int(match[1]) if match else 0

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = self.hub.cut_after
        if self.command == "GET":
            if self.hub.stall is not None and "safetensors" in self.path:
                self.hub.stall.wait(timeout=60)
                return
            if cut is not None and cut < len(body) and "safetensors" in self.path:
                self.hub.cut_after = None
                body = body[:cut]
                self.close_connection = True
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"})
