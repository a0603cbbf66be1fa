"""The administrator's hands on a control plane: whatever users, kubelets and tests do."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from aiohttp.connector import NEEDS_CLEANUP_CLOSED

from devcluster.controlplane import ControlPlane
from pitcrew_operator.kinds import Kind

Object = dict[str, Any]
MERGE = "application/merge-patch+json"


class Refused(Exception):
    """The API server said no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


def tls(plane: ControlPlane) -> ssl.SSLContext:
    """The administrator's."""
    context = ssl.create_default_context(cafile=str(plane.pki / "ca.crt"))
    context.load_cert_chain(plane.pki / "admin.crt", plane.pki / "admin.key")
    return context


class Admin:
    """JSON in, JSON out."""

    def __init__(self, plane: ControlPlane, connections: int = 16) -> None:
        self._base = f"https://127.0.0.1:{plane.port}"
        connector = aiohttp.TCPConnector(
            ssl=tls(plane),
            limit=connections,
            # Watches that are left in their middle: older Pythons let them outlive the session.
            enable_cleanup_closed=NEEDS_CLEANUP_CLOSED,
        )
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=2**21)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(
        self,
        verb: str,
        path: str,
        body: object = None,
        content: str = "application/json",
        **query: str,
    ) -> Object:
        """One request; it is repeated where the server is away for a moment. Raises Refused."""
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": content}
        for patience in (0.1, 0.5, 1.0, 2.0, 4.0, 0.0):
            try:
                async with self._session.request(
                    verb, self._base + path, data=data, params=query, headers=headers
                ) as answer:
                    said = await answer.read()
                break
            except aiohttp.ClientError:
                if not patience:
                    raise
                await asyncio.sleep(patience)
        if answer.status >= 400:
            raise Refused(answer.status, said.decode(errors="replace"))
        found: Object = orjson.loads(said)
        return found

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """One object; None where there is none."""
        try:
            return await self.call("GET", kind.path(namespace, name))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: Kind, namespace: str | None, selector: str = "") -> list[Object]:
        """All objects."""
        query = {"labelSelector": selector} if selector else {}
        return list((await self.call("GET", kind.path(namespace), **query))["items"])

    async def create(self, kind: Kind, namespace: str, document: Object) -> Object:
        """A new object."""
        return await self.call("POST", kind.path(namespace), document)

    async def merge(self, kind: Kind, namespace: str, name: str, fields: Object) -> Object:
        """Change fields of an object."""
        return await self.call("PATCH", kind.path(namespace, name), fields, MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str, **options: object) -> None:
        """Delete it, if it is there."""
        try:
            await self.call("DELETE", kind.path(namespace, name), options or None)
        except Refused as error:
            if error.status != 404:
                raise

    async def watch(
        self, kind: Kind, namespace: str | None, selector: str = ""
    ) -> AsyncIterator[tuple[str, Object]]:
        """What there is, as ADDED, and then every change, until the server ends the stream."""
        query = {"watch": "true"} | ({"labelSelector": selector} if selector else {})
        timeout = aiohttp.ClientTimeout(total=None)
        try:
            async with self._session.get(
                self._base + kind.path(namespace), params=query, timeout=timeout
            ) as answer:
                async for line in answer.content:
                    event: Mapping[str, Any] = orjson.loads(line)
                    if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
                        break
                    yield event["type"], event["object"]
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2)  # whoever follows asks again


async def install(admin: Admin, definitions: Iterable[Object]) -> None:
    """Resource definitions, once each; returns when the API server serves them."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for definition in definitions:
        try:
            await admin.call("POST", path, definition)
        except Refused as error:
            if error.status != 409:
                raise
        spec = definition["spec"]
        served = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        while not await _serves(admin, served):  # noqa: ASYNC110 (another process is asked)
            await asyncio.sleep(0.1)


async def _serves(admin: Admin, path: str) -> bool:
    try:
        await admin.call("GET", path, limit="1")
    except Refused:
        return False
    return True
