"""Questions to pods, over HTTP on loopback: what comes back, whatever comes back."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from pitcrew_operator.ask.asker import PodAsker
from pitcrew_operator.ask.http import Http, NoAnswer
from pitcrew_operator.ask.pods import PodWatch
from pitcrew_operator.ask.service import prove_service
from pitcrew_operator.plan.questions import ComparePods, KeyPlace, Proven, ProveService
from pitcrew_operator.plan.rollout.analysis import Agreement, Evidence

ID = "7c1d" * 16
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def pod(**routes: Handler) -> AsyncIterator[str]:
    """A server; a route's name is its path, `_` for `/`."""
    app = web.Application()
    for name, handler in routes.items():
        app.router.add_route("*", "/" + name.replace("_", "/"), handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answers(document: object, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        text = document if isinstance(document, str) else json.dumps(document)
        return web.Response(status=status, text=text)

    return handler


class FakeKeys:
    def __init__(self, known: Mapping[KeyPlace, str]) -> None:
        self._known = known

    async def read(self, place: KeyPlace) -> str:
        if place not in self._known:
            raise NoAnswer(f"no key in {place.secret}")
        return self._known[place]


NO_KEYS = FakeKeys({})


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    client = Http(timeout=5.0)
    yield client
    await client.close()


def question(url: str) -> ProveService:
    return ProveService(url, "abcd", ID)


PROOFS: list[tuple[str, object, int, str | None]] = [
    ("good", {"engineId": ID, "tokens": [1]}, 200, None),
    ("another engine", {"engineId": "0a" * 32, "tokens": [1]}, 200, "pod with engine 0a0a0a0a0a0a"),
    ("no tokens", {"engineId": ID, "tokens": []}, 200, "no tokens came back"),
    ("a list", [], 200, "no tokens came back"),
    ("no JSON", "<html>", 200, "no JSON"),
    ("not ready", {"error": "warming up"}, 503, "answers 503"),
    ("too long", "x" * (1 << 21), 200, "more than 1048576 bytes"),
]


@pytest.mark.parametrize(
    ("case", "document", "status", "problem"), PROOFS, ids=[case[0] for case in PROOFS]
)
async def test_proof_through_a_service(
    http: Http, case: str, document: object, status: int, problem: str | None
) -> None:
    async with pod(health_proof=answers(document, status)) as url:
        found = await prove_service(http, question(url))
    assert (found.problem is None) == (problem is None)
    assert (problem or "") in (found.problem or "")


async def test_a_service_that_leads_nowhere_names_the_remedy(http: Http) -> None:
    async with pod() as url:
        pass
    found = await prove_service(http, question(url))
    assert found.problem is not None
    assert "NetworkPolicy" in found.problem
    assert "operator.probeServices" in found.problem


async def test_a_pod_that_never_answers_is_left_alone_after_a_while() -> None:
    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    client = Http(timeout=0.2)
    async with pod(metrics=silent) as url:
        with pytest.raises(NoAnswer, match=r"within 0\.2 s"):
            await client.text(f"{url}/metrics")
    await client.close()


def speaks(*words: str) -> Handler:
    tokens = {"choices": [{"logprobs": {"tokens": list(words)}}]}
    return answers(tokens)


MODELS = answers({"data": [{"id": "tiny"}]})


def counted(good: int) -> Handler:
    return answers(f'pitcrew_requests_finished_total{{reason="stop"}} {good}.0\n')


def comparison(canary: str, stable: str, *prompts: str) -> ComparePods:
    return ComparePods((canary,), (stable,), ("new", "old"), prompts, 4)


async def test_pods_are_compared(http: Http) -> None:
    watch = PodWatch()
    async with (
        pod(metrics=counted(5), v1_models=MODELS, v1_completions=speaks("a", "b")) as new,
        pod(metrics=counted(70), v1_models=MODELS, v1_completions=speaks("a", "c")) as old,
    ):
        found = await watch.compare(http, NO_KEYS, comparison(new, old, "one", "two"))
    assert found.problem is None
    assert (found.canary.requests, found.stable.requests) == (5, 0)
    assert found.agreement == Agreement(2, 4)


class Counters:
    """A pod's counters, which begin anew when its process does."""

    def __init__(self, good: int = 0, errors: int = 0, seconds: float = 0.0) -> None:
        self.good, self.errors, self.seconds = good, errors, seconds

    async def tell(self, request: web.Request) -> web.Response:
        first = "pitcrew_time_to_first_token_seconds"
        return web.Response(
            text=f'pitcrew_requests_finished_total{{reason="stop"}} {self.good}\n'
            f'pitcrew_requests_refused_total{{code="500"}} {self.errors}\n'
            f"{first}_sum {self.seconds}\n{first}_count {self.good}\n"
            f'{first}_bucket{{le="+Inf"}} {self.good}\n'
        )


async def test_a_stable_pod_that_began_anew_counts_from_there(http: Http) -> None:
    counters, watch = Counters(good=1000, seconds=100.0), PodWatch()
    async with pod(metrics=counted(5)) as new, pod(metrics=counters.tell) as old:
        await watch.compare(http, NO_KEYS, comparison(new, old))
        counters.good, counters.seconds = 1010, 103.0
        await watch.compare(http, NO_KEYS, comparison(new, old))
        counters.good, counters.seconds = 4, 120.0
        found = await watch.compare(http, NO_KEYS, comparison(new, old))
    assert (found.stable.requests, found.stable.first_tokens) == (14, 14)
    assert found.stable.first_token_seconds == pytest.approx(123.0)


async def test_what_a_canary_failed_is_not_forgotten_when_it_begins_anew(http: Http) -> None:
    counters, watch = Counters(good=7, errors=3), PodWatch()
    async with pod(metrics=counters.tell) as new, pod(metrics=counted(70)) as old:
        await watch.compare(http, NO_KEYS, comparison(new, old))
        counters.good, counters.errors = 2, 0
        await watch.compare(http, NO_KEYS, comparison(new, old))
        asked = replace(comparison(new, old), canary=())
        found = await watch.compare(http, NO_KEYS, asked)
    assert (found.canary.requests, found.canary.errors) == (12, 3)


async def test_pods_with_keys_are_told(http: Http) -> None:
    closed = answers({"error": "no key"}, 401)
    async with pod(metrics=counted(1), v1_models=closed) as url:
        found = await PodWatch().compare(http, NO_KEYS, comparison(url, url, "one"))
    assert found.agreement is None
    assert "analysis.golden.keySecretRef" in (found.problem or "")


PLACE = KeyPlace("models", "chat-keys", "token")


def locked(key: str, handler: Handler) -> Handler:
    async def check(request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if given != f"Bearer {key}":
            return web.Response(status=401, text=f"not {given}")
        return await handler(request)

    return check


async def test_pods_with_keys_are_asked_with_the_key_that_the_deployment_names(http: Http) -> None:
    keys = FakeKeys({PLACE: "sesame"})
    doors = {"v1_models": locked("sesame", MODELS), "v1_completions": locked("sesame", speaks("a"))}
    async with pod(metrics=counted(1), **doors) as url:
        asked = replace(comparison(url, url, "one"), api_key=PLACE)
        found = await PodWatch().compare(http, keys, asked)
    assert found.problem is None
    assert found.agreement == Agreement(1, 1)


async def test_a_pod_that_repeats_the_key_does_not_get_it_told(http: Http) -> None:
    keys = FakeKeys({PLACE: "sesame"})
    async with pod(metrics=counted(1), v1_models=locked("other", MODELS)) as url:
        asked = replace(comparison(url, url, "one"), api_key=PLACE)
        found = await PodWatch().compare(http, keys, asked)
    assert "answers 401: not Bearer ***" in (found.problem or "")
    assert "sesame" not in (found.problem or "")


async def test_a_key_that_cannot_be_read_is_waited_for(http: Http) -> None:
    async with pod(metrics=counted(1), v1_models=MODELS, v1_completions=speaks("a")) as url:
        asked = replace(comparison(url, url, "one"), api_key=PLACE)
        watch = PodWatch()
        found = await watch.compare(http, NO_KEYS, asked)
        assert found.agreement is None
        assert "no key in chat-keys" in (found.problem or "")
        found = await watch.compare(http, FakeKeys({PLACE: "any"}), asked)
    assert found.agreement == Agreement(1, 1)


async def test_a_slow_model_is_given_time_for_each_token() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return await speaks("a")(request)

    client = Http(timeout=0.3)
    async with pod(metrics=counted(1), v1_models=MODELS, v1_completions=slow) as url:
        found = await PodWatch().compare(client, NO_KEYS, comparison(url, url, "one"))
    assert (found.problem, found.agreement) == (None, Agreement(1, 1))
    await client.close()


async def test_metrics_that_do_not_come_are_told(http: Http) -> None:
    async with pod(metrics=answers("gone", 500)) as url:
        found = await PodWatch().compare(http, NO_KEYS, comparison(url, url))
    assert "answers 500" in (found.problem or "")
    assert found.canary.requests == 0


async def test_nobody_waits_for_an_answer_and_its_coming_is_heard() -> None:
    heard: asyncio.Queue[Hashable] = asyncio.Queue()
    asker, asked = PodAsker(Http(), NO_KEYS, heard.put_nowait), 0

    async def proof(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"engineId": ID, "tokens": [1]})

    async with pod(health_proof=proof, metrics=counted(3)) as url:
        asker.ask("chat", question(url))
        asker.ask("chat", question(url))
        assert asker.answers("chat") == {}
        assert await heard.get() == "chat"
        asker.ask("chat", question(url))
        assert asker.answers("chat") == {question(url).subject: Proven(None)}
        assert asked == 1
        compared = comparison(url, url)
        asker.ask("chat", compared)
        await heard.get()
        evidence = asker.answers("chat")[compared.subject]
        assert isinstance(evidence, Evidence)
        assert evidence.canary.requests == 3
    asker.forget("chat")
    assert asker.answers("chat") == {}
    await asker.close()


async def test_another_question_of_a_kind_replaces_the_one_before() -> None:
    heard: asyncio.Queue[Hashable] = asyncio.Queue()
    asker = PodAsker(Http(), NO_KEYS, heard.put_nowait)
    async with pod(health_proof=answers({"engineId": ID, "tokens": [1]})) as url:
        for revision in ("one", "two"):
            asker.ask("chat", ProveService(url, revision, ID))
            await heard.get()
        assert list(asker.answers("chat")) == [ProveService(url, "two", ID).subject]
    await asker.close()
