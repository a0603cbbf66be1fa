"""The HTTP side over an engine whose steps the test holds in its hand."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from pitcrew_builder.manifest import (
    Canary,
    GraphInterface,
    Identity,
    Manifest,
    ModelFacts,
    ResolvedShapes,
)
from pitcrew_builder.spec import Parallelism, Precision, Target
from pitcrew_runtime.adapters.library import AdapterLibrary
from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.batch import StepBatch
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Chosen
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import GREEDY
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.errors import CanaryMismatch, InvariantViolated
from pitcrew_runtime.frontend import STANDARD, Frontend, Prompt
from pitcrew_runtime.loop import EngineLoop, Hooks
from pitcrew_runtime.metrics import Metrics
from pitcrew_runtime.server.app import build_app
from pitcrew_runtime.server.health import Health
from pitcrew_runtime.server.keys import Keyring
from pitcrew_runtime.server.lora import LoraEndpoints
from pitcrew_runtime.server.models import Models
from pitcrew_runtime.server.openai import OpenAI
from pitcrew_runtime.server.served import Served
from pitcrew_runtime.server.translate import Language
from pitcrew_runtime.testing import EchoExecutor, continuation
from pitcrew_runtime.warmup import check_canary, warm_up

LIMITS = Limits(
    max_running=4, max_step_tokens=16, max_waiting=4, max_sequence_length=64, page_size=4
)
PROMPT = [5, 6, 7]
BODY = {
    "model": "echo",
    "prompt": PROMPT,
    "max_tokens": 6,
    "temperature": 0,
    "return_token_ids": True,
}


def manifest() -> Manifest:
    identity = Identity(
        model="echo",
        commit="0" * 40,
        inputs={},
        target=Target.ONNXRUNTIME_CPU,
        precision=Precision.FP32,
        parallelism=Parallelism(),
        shapes=ResolvedShapes(max_batch_size=4, max_sequence_length=64, kv_page_size=4),
        toolchain={"onnxruntime": "0"},
        builder_version="0",
    )
    facts = ModelFacts(
        architecture="echo",
        parameters=0,
        layers=1,
        hidden_size=1,
        attention_heads=1,
        kv_heads=1,
        head_dim=1,
        vocab_size=256,
        bos_token_id=None,
        eos_token_ids=(),
        pad_token_id=None,
    )
    return Manifest(
        engine_id=identity.engine_id,
        tag=identity.tag,
        identity=identity,
        model=facts,
        ranks=(GraphInterface(graph="none"),),
        canary=Canary(prompt=(1,), continuation=tuple(continuation([1], 8))),
        files=(),
        timings={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
    )


class Gate(EchoExecutor):
    """Executes while it is open; may be told to fail, or to break the books."""

    def __init__(self) -> None:
        super().__init__(pages=32, page_size=4)
        self.open = threading.Event()
        self.entered = threading.Event()
        self.fault: BaseException | None = None

    def execute(self, batch: StepBatch) -> list[Chosen]:
        self.entered.set()
        assert self.open.wait(30)
        if self.fault is not None:
            raise self.fault
        return super().execute(batch)


@dataclass
class Clock:
    """Shows what it is set to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Rig:
    gate: Gate = field(default_factory=Gate)
    clock: Clock = field(default_factory=Clock)
    library: AdapterLibrary | None = None
    lora_root: Path | None = None

    def __post_init__(self) -> None:
        self.manifest = manifest()
        scheduler = Scheduler(LIMITS, PageAllocator(32), AdapterSlots(2))
        self.engine = Engine(scheduler, self.gate)
        self.metrics = Metrics(self.engine.gauges, {})
        events = asyncio.get_running_loop()

        def tell(what: Callable[..., object], *news: object) -> None:
            events.call_soon_threadsafe(what, *news)

        hooks = Hooks(
            lambda report, now: tell(self.frontend.deliver, report, now),
            lambda: tell(setattr, self.frontend, "ready", True),
            lambda fault: tell(self.frontend.abandon),
        )
        self.loop = EngineLoop(self.engine, lambda *_: None, hooks, self.clock, 10.0)
        self.frontend = Frontend(self.loop, self.metrics, self.clock)
        language = Language(None, None, self.manifest.model, 64)
        self.served = served = Served("echo", self.manifest, language, self.frontend, self.library)
        health = Health(self.loop, self.frontend, self.metrics, self.manifest)
        lora = LoraEndpoints(self.library, self.lora_root)
        endpoints = (OpenAI(served, 1 << 16), Models(served), lora, health)
        routes = [route for each in endpoints for route in each.routes()]
        self.app = app = build_app(routes, self.metrics, Keyring())
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def post(self, **change: Any) -> httpx.Response:  # noqa: ANN401
        return await self.http.post("/v1/completions", json=BODY | change)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not true():  # noqa: ASYNC110 - another thread's state has no asyncio event
                await asyncio.sleep(0.002)

    async def status(self, path: str) -> tuple[int, str | None]:
        answer = await self.http.get(path)
        return answer.status_code, answer.json().get("reason")


@asynccontextmanager
async def running(gate_open: bool = True, **parts: Any) -> AsyncIterator[Rig]:  # noqa: ANN401
    rig = Rig(**parts)
    if gate_open:
        rig.gate.open.set()
    rig.loop.start()
    await rig.until(lambda: rig.frontend.ready)
    try:
        yield rig
    finally:
        rig.gate.open.set()
        assert rig.loop.stop(30)
        await rig.http.aclose()


async def test_answers_hold_the_tokens_of_their_prompt() -> None:
    async with running() as rig:
        answers = await asyncio.gather(*(rig.post(prompt=[n, n + 1]) for n in range(4)))
        for number, answer in enumerate(answers):
            (choice,) = answer.json()["choices"]
            assert choice["token_ids"] == continuation([number, number + 1], 6)
            assert choice["text"] == ""


class Hashed(tuple[int, ...]):
    """A prompt that knows how often it was looked up, which takes as long as it is."""

    times = 0

    def __hash__(self) -> int:
        Hashed.times += 1
        return super().__hash__()

    __eq__ = tuple.__eq__


async def test_a_prompt_is_looked_up_for_all_its_choices_together() -> None:
    async with running() as rig:
        prompts = [Hashed([9, 9]), Hashed([9, 8])]
        choices = [Prompt(tokens, 2, GREEDY, frozenset()) for tokens in prompts for _ in range(2)]
        again = Prompt((9, 9), 2, GREEDY, frozenset())
        requests = rig.frontend._requests([*choices, again], STANDARD)
        first, _, other, *_ = (request.id for request in requests)
        assert [one.fork_of for one in requests] == [None, first, None, other, first]
        assert Hashed.times <= 4


async def test_streams_are_framed_by_the_book() -> None:
    async with running() as rig:
        answer = await rig.post(stream=True, stream_options={"include_usage": True})
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, end = answer.text.split("\n\n")[:-1]
        assert end == "data: [DONE]"
        *chunks, usage = [json.loads(event.removeprefix("data: ")) for event in events]
        tokens = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
        assert tokens == continuation(PROMPT, 6)
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 6


class Turnstile(Gate):
    """Lets one step through each time it is turned."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = threading.Semaphore(0)

    def execute(self, batch: StepBatch) -> list[Chosen]:
        assert self.turns.acquire(timeout=30)
        return super().execute(batch)


async def test_each_token_is_written_when_it_is_made() -> None:
    turnstile = Turnstile()
    async with running(gate=turnstile) as rig:
        sent: list[bytes] = []
        asked = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if asked.is_set():
                await asyncio.Event().wait()
            asked.set()
            return {"type": "http.request", "body": json.dumps(BODY | {"stream": True}).encode()}

        async def send(message: Any) -> None:  # noqa: ANN401
            sent.append(message.get("body", b""))

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        scope |= {"query_string": b"", "http_version": "1.1", "raw_path": b""}
        answering = asyncio.create_task(rig.app(scope, receive, send))  # type: ignore[arg-type]
        for count in range(1, BODY["max_tokens"] + 1):
            turnstile.turns.release()
            await rig.until(lambda: b"".join(sent).count(b"data: {") == count)  # noqa: B023
        await answering
        assert b"".join(sent).endswith(b"data: [DONE]\n\n")


class Counting(Gate):
    """Remembers how many rows each step had, and lets steps through one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def execute(self, batch: StepBatch) -> list[Chosen]:
        self.rows.append(len(batch.rows))
        answer = super().execute(batch)
        self.open.clear()
        return answer


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5], ids=lambda steps: f"after {steps} steps")
async def test_who_leaves_is_computed_for_no_further(stream: bool, steps: int) -> None:
    """In the first chunk of a prompt of three, in its middle and while tokens come."""
    gate = Counting()
    async with running(gate_open=False, gate=gate) as rig:
        body = BODY | {"prompt": list(range(40)), "max_tokens": 20, "stream": stream}
        left = asyncio.Event()
        asked = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def receive() -> dict[str, Any]:
            if asked:
                return asked.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:  # noqa: ANN401
            pass

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        scope |= {"query_string": b"", "http_version": "1.1", "raw_path": b""}
        answering = asyncio.create_task(rig.app(scope, receive, send))  # type: ignore[arg-type]
        for step in range(1, steps + 2):
            await rig.until(lambda: len(gate.rows) == step)  # noqa: B023
            if step <= steps:
                gate.open.set()
        left.set()
        await asyncio.wait_for(answering, 30)
        gate.open.set()  # the step that was under way
        await rig.until(lambda: rig.engine.idle)
        assert gate.rows == [1] * (steps + 1)
        assert rig.engine.gauges().pages_used == 0


async def test_who_has_no_key_is_told_how_to_send_one() -> None:
    rig = Rig()
    app = build_app(Models(rig.served).routes(), rig.metrics, Keyring(["secret"]))
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for sent in ({}, {"authorization": "Basic secret"}, {"authorization": "Bearer wrong"}):
            answer = await http.get("/v1/models", headers=sent)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"
        known = await http.get("/v1/models", headers={"authorization": "bearer secret"})
        assert known.status_code == 200
    await rig.http.aclose()


async def test_nothing_is_served_before_the_warm_up() -> None:
    rig = Rig()
    answer = await rig.post()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert await rig.status("/health/ready") == (503, "warming up")
    assert await rig.status("/health/live") == (200, None)
    await rig.http.aclose()


async def test_the_queue_is_bounded_and_cancelling_makes_room() -> None:
    async with running(gate_open=False) as rig:
        first = asyncio.create_task(rig.post())
        await rig.until(rig.gate.entered.is_set)
        others = [asyncio.create_task(rig.post()) for _ in range(4)]
        await rig.until(lambda: rig.engine.gauges().waiting == 4)
        full = await rig.post()
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        impossible = await rig.post(max_tokens=10**6)
        assert impossible.status_code == 429, "nothing was made of it"
        rig.gate.open.set()
        answers = await asyncio.gather(first, *others)
        assert {answer.status_code for answer in answers} == {200}
        assert b'requests_refused_total{code="429"} 2.0' in rig.metrics.render()


async def test_the_time_to_retry_follows_from_the_pace_of_the_last_requests() -> None:
    async with running() as rig:
        for second in range(1, 5):
            rig.clock.now = float(second)
            assert (await rig.post()).status_code == 200
        rig.gate.entered.clear()
        rig.gate.open.clear()
        waiting = [asyncio.create_task(rig.post())]
        await rig.until(rig.gate.entered.is_set)
        waiting += [asyncio.create_task(rig.post()) for _ in range(4)]
        await rig.until(lambda: rig.engine.gauges().waiting == 4)
        # Four that ended in three seconds: the four that wait take as long.
        assert (await rig.post()).headers["retry-after"] == "3"
        rig.clock.now = 10.0
        assert (await rig.post()).headers["retry-after"] == "9"
        rig.gate.open.set()
        await asyncio.gather(*waiting)


async def test_more_choices_than_may_ever_wait_are_refused() -> None:
    async with running() as rig:
        answer = await rig.post(n=5)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "n"
        assert rig.engine.idle


async def test_all_choices_or_none_are_accepted() -> None:
    async with running(gate_open=False) as rig:
        first = asyncio.create_task(rig.post())
        await rig.until(rig.gate.entered.is_set)
        second = asyncio.create_task(rig.post(n=2))
        await rig.until(lambda: rig.engine.gauges().waiting == 2)
        assert (await rig.post(n=3)).status_code == 429
        assert rig.engine.gauges().waiting == 2, "not even for a moment"
        rig.gate.open.set()
        assert (await first).status_code == (await second).status_code == 200
        await rig.until(lambda: rig.engine.idle)
        told = rig.metrics.render().decode()
        assert f"pitcrew_prompt_tokens_total {3.0 * len(PROMPT)}" in told
        assert 'finished_total{reason="length"} 3.0' in told
        assert 'reason="cancelled"} 0' in told or 'reason="cancelled"' not in told


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failing_executor_fails_the_request_only(stream: bool) -> None:
    async with running() as rig:
        rig.gate.fault = RuntimeError("no device")
        answer = await rig.post(stream=stream)
        error = json.loads(answer.text.split("\n\n")[0].removeprefix("data: "))["error"]
        assert error["code"] == "generation_failed"
        assert answer.status_code == (200 if stream else 500)
        rig.gate.fault = None
        assert (await rig.post()).status_code == 200
        assert await rig.status("/health/live") == (200, None)


async def test_broken_books_end_everything_and_turn_liveness_red() -> None:
    async with running() as rig:
        rig.gate.open.clear()
        waiting = asyncio.create_task(rig.post())
        await rig.until(rig.gate.entered.is_set)
        rig.engine._scheduler.pages.share(99, rig.engine._scheduler.pages.pages_of(1))
        rig.gate.open.set()
        assert (await waiting).status_code == 500
        code, reason = await rig.status("/health/live")
        assert code == 503
        assert reason is not None
        assert InvariantViolated.__name__ in reason
        assert (await rig.post()).status_code == 503


async def test_a_wedged_step_turns_liveness_red_until_it_ends() -> None:
    async with running(gate_open=False) as rig:
        stuck = asyncio.create_task(rig.post())
        await rig.until(rig.gate.entered.is_set)
        assert await rig.status("/health/live") == (200, None)
        rig.clock.now = 11.0
        code, reason = await rig.status("/health/live")
        assert (code, reason) == (503, "a step has been running for 11 s (limit 10 s)")
        assert (await rig.status("/health/ready"))[0] == 503
        rig.gate.open.set()
        assert (await stuck).status_code == 200
        assert await rig.status("/health/live") == (200, None)


def test_a_step_that_hangs_in_the_warm_up_turns_liveness_red() -> None:
    gate, clock, ready = Gate(), Clock(), threading.Event()
    engine = Engine(Scheduler(LIMITS, PageAllocator(32), AdapterSlots(2)), gate)
    hooks = Hooks(lambda report, now: None, ready.set, lambda fault: None)
    canary = manifest().canary
    loop = EngineLoop(engine, lambda one, now: warm_up(one, canary, now), hooks, clock, 10.0)
    loop.start()
    assert gate.entered.wait(30)
    clock.now = 11.0
    assert loop.trouble() == "a step has been running for 11 s (limit 10 s)"
    gate.open.set()
    assert ready.wait(30)
    assert loop.trouble() is None
    assert loop.stop(30)


async def test_draining_finishes_and_refuses() -> None:
    async with running(gate_open=False) as rig:
        last = asyncio.create_task(rig.post())
        await rig.until(rig.gate.entered.is_set)
        drained = asyncio.create_task(rig.frontend.drain(30))
        await rig.until(lambda: rig.frontend.draining)
        refused = await rig.post()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert await rig.status("/health/ready") == (503, "draining")
        rig.gate.open.set()
        assert (await last).status_code == 200
        assert await drained


async def test_a_request_cut_off_by_the_drain_is_no_answer() -> None:
    async with running(gate_open=False) as rig:
        last = asyncio.create_task(rig.post(max_tokens=60))
        await rig.until(rig.gate.entered.is_set)
        drained = asyncio.create_task(rig.frontend.drain(0))
        await rig.until(lambda: bool(rig.engine._scheduler._roster._cancelled))
        rig.gate.open.set()
        assert not await drained
        answer = await last
        assert answer.status_code == 500
        assert "shut down" in answer.json()["error"]["message"]


async def test_who_waits_for_a_step_that_hangs_is_told_of_the_end() -> None:
    async with running(gate_open=False) as rig:
        last = asyncio.create_task(rig.post())
        await rig.until(rig.gate.entered.is_set)
        assert not await rig.frontend.drain(0, last_step_seconds=0)
        answer = await last
        assert answer.status_code == 500
        assert "shut down" in answer.json()["error"]["message"]
        assert rig.frontend.active == 0


async def test_text_cannot_be_asked_of_an_engine_without_tokenizer() -> None:
    async with running() as rig:
        for change in ({"prompt": "text"}, {"stop": "x"}, {"echo": True}):
            answer = await rig.post(**change)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] in change
        chat = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
        answer = await rig.http.post("/v1/chat/completions", json=chat)
        assert "no chat template" in answer.json()["error"]["message"]


class Watching(EchoExecutor):
    """Remembers how many rows it was given in each step."""

    def __init__(self) -> None:
        super().__init__(32, 4)
        self.sizes: list[int] = []

    def execute(self, batch: StepBatch) -> list[Chosen]:
        self.sizes.append(len(batch.rows))
        return super().execute(batch)


def test_the_warm_up_runs_every_bucket_and_the_canary() -> None:
    executor = Watching()
    engine = Engine(Scheduler(LIMITS, PageAllocator(32)), executor)
    warm_up(engine, manifest().canary, Clock())
    assert executor.sizes == [1, 1, 2, 2, 4, 4, *[1] * 8]
    assert engine.idle


def test_a_short_queue_keeps_no_bucket_cold() -> None:
    executor = Watching()
    limits = replace(LIMITS, max_waiting=1)
    engine = Engine(Scheduler(limits, PageAllocator(32)), executor)
    warm_up(engine, manifest().canary, Clock())
    assert executor.sizes == [1, 1, 1, 2, 2, 1, 2, 3, 4, 4, *[1] * 8]


@pytest.mark.parametrize("waiting", [1, 2, 3])
def test_a_pool_too_small_for_a_bucket_keeps_nobody_from_starting(waiting: int) -> None:
    executor = Watching()
    limits = replace(LIMITS, max_waiting=waiting)
    engine = Engine(Scheduler(limits, PageAllocator(3)), executor)
    warm_up(engine, manifest().canary, Clock())
    assert max(executor.sizes) == 2, "a page is left for each to go on"
    assert engine.idle


def test_sequences_too_short_for_a_bucket_keep_nobody_from_starting() -> None:
    executor = Watching()
    limits = replace(LIMITS, max_waiting=1, max_sequence_length=4)
    engine = Engine(Scheduler(limits, PageAllocator(32)), executor)
    warm_up(engine, Canary(prompt=(1,), continuation=tuple(continuation([1], 2))), Clock())
    assert executor.sizes == [1, 1, 1, 2, 2, 1, 1]


def test_a_canary_that_differs_is_told_with_both_songs() -> None:
    engine = Engine(Scheduler(LIMITS, PageAllocator(32)), EchoExecutor(32, 4))
    with pytest.raises(CanaryMismatch, match=r"greedy tokens \[.*\] differ from .*\[1, 2, 3\]"):
        check_canary(engine, Canary(prompt=(1,), continuation=(1, 2, 3)), Clock())
