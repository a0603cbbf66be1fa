"""Answers of an API server, as the operator understands them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from pitcrew_operator.cluster import KubeCluster
from pitcrew_operator.errors import Conflict, Gone, NotLeader, Rejected, Unavailable
from pitcrew_operator.kinds import JOB
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.slim import slim
from pitcrew_operator.transport import Transport

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JOB_RAW: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "a", "namespace": "n"},
}


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def write(port: int) -> None:
        document = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "test", "user": {"token": "t"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    return write


@asynccontextmanager
async def server(
    handler: Handler, kubeconfig: Callable[[int], None], connections: int = 4
) -> AsyncIterator[Transport]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=5.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    kubeconfig(runner.addresses[0][1])
    transport = await Transport.connect(Metrics(), connections)
    try:
        yield transport
    finally:
        await transport.close()
        await runner.cleanup()


def answer(status: int, message: str = "no", **headers: str) -> web.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"message": message}, status=status, headers=names)


@pytest.mark.parametrize(
    ("status", "kind", "patience"),
    [
        (404, Gone, None),
        (409, Conflict, None),
        (422, Rejected, None),
        (429, Unavailable, 7.0),
        (500, Unavailable, 7.0),
        (504, Unavailable, 7.0),
    ],
)
async def test_refusals_have_names(
    status: int,
    kind: type[Exception],
    patience: float | None,
    kubeconfig: Callable[[int], None],
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return answer(status, Retry_After="7")

    async with server(refuse, kubeconfig) as transport:
        with pytest.raises(kind) as caught:
            await KubeCluster(transport).apply(JOB_RAW)
    assert getattr(caught.value, "retry_after", None) == patience


async def test_answer_that_does_not_come_is_given_up(kubeconfig: Callable[[int], None]) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.json_response(JOB_RAW)

    async with server(hang, kubeconfig) as transport:
        with pytest.raises(Unavailable, match="TimeoutError"):
            await transport.json("GET", JOB, JOB.path("n"), seconds=0.05)
        with pytest.raises(Unavailable, match="TimeoutError"):
            await KubeCluster(transport, lambda: 0.05).apply(JOB_RAW)


@pytest.mark.parametrize("text", ["<html>Sign in</html>", "[]", ""])
async def test_words_of_a_proxy_are_no_answer(text: str, kubeconfig: Callable[[int], None]) -> None:
    async def proxy(_: web.Request) -> web.Response:
        return web.Response(text=text)

    async with server(proxy, kubeconfig) as transport:
        with pytest.raises(Unavailable, match="something else than a JSON object came"):
            await KubeCluster(transport).get(JOB, "n", "a")


async def test_nothing_is_sent_without_permission(kubeconfig: Callable[[int], None]) -> None:
    asked: list[str] = []

    async def note(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.json_response(JOB_RAW)

    def refuse() -> float:
        raise NotLeader("not held")

    async with server(note, kubeconfig) as transport:
        cluster = KubeCluster(transport, refuse)
        await cluster.get(JOB, "n", "a")
        for write in (
            cluster.apply(JOB_RAW),
            cluster.apply_status(JOB_RAW),
            cluster.delete(JOB, "n", "a", "uid"),
            cluster.create_event(JOB_RAW),
        ):
            with pytest.raises(NotLeader):
                await write
    assert asked == ["GET"]


async def test_listing_whose_next_page_is_too_old_begins_again(
    kubeconfig: Callable[[int], None],
) -> None:
    asked: list[str | None] = []

    async def page(request: web.Request) -> web.Response:
        token = request.query.get("continue")
        asked.append(token)
        if token == "old":
            return answer(410, "too old")
        first = len(asked) == 1
        item = {"metadata": {"name": "a", "namespace": "n", "managedFields": [{"manager": "x"}]}}
        items = [] if token else [item]
        more = {None: "old" if first else "new"}.get(token)
        return web.json_response(
            {
                "items": items,
                "metadata": {"resourceVersion": "5"} | ({"continue": more} if more else {}),
            }
        )

    async with server(page, kubeconfig) as transport:
        items, version = await KubeCluster(transport).list_all(JOB, None)
    assert asked == [None, "old", None, "new"]
    assert version == "5"
    assert items == [slim(JOB, JOB_RAW)], "complete, and without what nobody reads"


async def test_connections_are_bounded(kubeconfig: Callable[[int], None]) -> None:
    now, most = 0, 0

    async def count(_: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return web.Response(body=json.dumps(JOB_RAW))

    async with server(count, kubeconfig, connections=3) as transport:
        cluster = KubeCluster(transport)
        await asyncio.gather(*(cluster.get(JOB, "n", "a") for _ in range(30)))
    assert most == 3


async def test_stream_gives_whole_lines_however_they_are_cut(
    kubeconfig: Callable[[int], None],
) -> None:
    async def tell(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b'{"a"', b":1}\n{", b'"b":2}\n', b'{"c":'):
            await response.write(part)
            await asyncio.sleep(0.01)
        return response

    async with (
        server(tell, kubeconfig) as transport,
        transport.stream("/x", {"watch": "true"}, 5.0) as news,
    ):
        assert [line async for lines in news for line in lines] == [b'{"a":1}', b'{"b":2}']


async def heard(transport: Transport, silence: float) -> list[bytes]:
    async with transport.stream("/x", {}, silence) as news:
        return [line async for lines in news for line in lines]


async def test_stream_that_falls_silent_is_given_up(kubeconfig: Callable[[int], None]) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{}\n")
        await asyncio.sleep(2)
        return response

    async with server(hang, kubeconfig) as transport:
        with pytest.raises(Unavailable, match="Timeout"):
            await heard(transport, 0.1)


async def test_stream_that_is_refused_has_the_reason(kubeconfig: Callable[[int], None]) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return answer(410, "too old resource version")

    async with server(refuse, kubeconfig) as transport:
        with pytest.raises(Rejected, match="410: too old resource version"):
            async with transport.stream("/x", {}, 5.0):
                pass
