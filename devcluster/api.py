"""Asking the API server, from this machine, without starting a program for each question."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

from devcluster.errors import DevclusterError

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


def service_address(api: Api, text: str) -> tuple[str, int]:
    """The cluster address and port of the Service that `NAMESPACE/NAME[:PORT]` names.

    Raises:
        DevclusterError: the text does not name a Service that has this port.
    """
    namespace, _, rest = text.partition("/")
    name, _, wanted = rest.partition(":")
    found = api.get(f"/api/v1/namespaces/{namespace}/services/{name}") if name else None
    if not found:
        raise DevclusterError(f"{text!r}: no such Service; write NAMESPACE/NAME[:PORT]")
    ports = [entry["port"] for entry in found["spec"].get("ports", [])]
    if wanted and wanted not in map(str, ports):
        raise DevclusterError(f"{text!r}: the Service's ports are {', '.join(map(str, ports))}")
    if not ports or found["spec"].get("clusterIP") in (None, "None"):
        raise DevclusterError(f"{text!r}: the Service has no address of its own")
    return found["spec"]["clusterIP"], int(wanted or ports[0])
