"""Asking the API server, from this machine, without starting a program for each question."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

Document = dict[str, Any]


class Api:
    """A reader with the administrator's rights; `pki` holds ca.crt, admin.crt and admin.key."""

    def __init__(self, pki: Path, port: int) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def read(self, path: str, timeout: float = 2.0) -> str | None:
        """The body of a successful answer to GET `path`; None for any other, or for silence."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=timeout, context=self._tls
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            return body if answer.status == http.HTTPStatus.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def get(self, path: str) -> Document | None:
        """The object at `path`; None where there is none, or no answer."""
        body = self.read(path)
        return json.loads(body) if body is not None else None

    def ready(self) -> bool:
        """Does the server serve, its own bootstrap done?"""
        return self.read("/readyz") == "ok"


def condition(document: Document | None, kind: str) -> Document:
    """The condition `kind` of an object's status; empty if it has none."""
    found = (document or {}).get("status", {}).get("conditions", [])
    return next((entry for entry in found if entry["type"] == kind), {})
