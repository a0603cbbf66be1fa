"""Adapters over HTTP: loading, unloading, listing, naming them in requests."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pitcrew_runtime.adapters.library import AdapterLibrary
from pitcrew_runtime.adapters.weights import Room
from pitcrew_runtime.testing import continuation
from tests.unit.runtime.peft import SHAPES, Q, pair, save
from tests.unit.runtime.test_server import PROMPT, Rig, running

ROOM = Room(max_adapters=2, max_rank=4, shapes=SHAPES)


def library() -> AdapterLibrary:
    return AdapterLibrary(ROOM, capacity=4, base="echo")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three adapters, and one outside."""
    for number, name in enumerate("abc"):
        save(tmp_path / "root" / name, pair(Q, 2, seed=number))
    save(tmp_path / "outside", pair(Q, 2))
    return tmp_path / "root"


async def load(rig: Rig, name: str, path: str, **change: object) -> httpx.Response:
    body = {"lora_name": name, "lora_path": path} | change
    return await rig.http.post("/v1/load_lora_adapter", json=body)


async def unload(rig: Rig, name: str) -> httpx.Response:
    return await rig.http.post("/v1/unload_lora_adapter", json={"lora_name": name})


def tokens(answer: httpx.Response) -> list[int]:
    (choice,) = answer.json()["choices"]
    found: list[int] = choice["token_ids"]
    return found


async def test_an_adapter_is_served_under_its_name(root: Path) -> None:
    known = library()
    async with running(library=known, lora_root=root) as rig:
        done = await load(rig, "mine", "a")
        assert (done.status_code, done.text) == (
            200,
            "Success: LoRA adapter 'mine' added successfully.",
        )
        weights = known.find("mine")
        assert weights is not None
        answer = await rig.post(model="mine")
        assert answer.json()["model"] == "mine"
        assert tokens(answer) == continuation(PROMPT, 6, weights.identity)
        assert tokens(await rig.post()) == continuation(PROMPT, 6)


async def test_more_adapters_than_slots_take_turns(root: Path) -> None:
    known = library()
    async with running(library=known, lora_root=root) as rig:
        for name in "abc":
            assert (await load(rig, name, name)).status_code == 200
        names = ["a", "b", "c", "echo"]
        answers = await asyncio.gather(*(rig.post(model=name) for name in names))
        for name, answer in zip(names, answers, strict=True):
            weights = known.find(name)
            identity = weights.identity if weights else ""
            assert tokens(answer) == continuation(PROMPT, 6, identity)


async def test_models_are_listed_with_their_parent(root: Path) -> None:
    known = library()
    async with running(library=known, lora_root=root) as rig:
        await load(rig, "team/mine", "a")
        listed = (await rig.http.get("/v1/models")).json()["data"]
        assert [(card["id"], card["parent"]) for card in listed] == [
            ("echo", None),
            ("team/mine", "echo"),
        ]
        (card,) = [card for card in listed if card["parent"]]
        weights = known.find("team/mine")
        assert weights is not None
        assert card["root"] == f"sha256:{weights.identity}"
        assert (await rig.http.get("/v1/models/team/mine")).json() == card
        assert (await rig.http.get("/v1/models/other")).status_code == 404


async def test_unloading_lets_running_requests_finish(root: Path) -> None:
    known = library()
    async with running(gate_open=False, library=known, lora_root=root) as rig:
        await load(rig, "mine", "a")
        weights = known.find("mine")
        assert weights is not None
        under_way = asyncio.create_task(rig.post(model="mine"))
        await rig.until(rig.gate.entered.is_set)
        assert (await unload(rig, "mine")).status_code == 200
        refused = await rig.post(model="mine")
        assert refused.status_code == 404
        assert refused.json()["error"]["param"] == "model"
        rig.gate.open.set()
        assert tokens(await under_way) == continuation(PROMPT, 6, weights.identity)
        assert (await unload(rig, "mine")).status_code == 404


async def test_a_name_is_replaced_when_asked_to(root: Path) -> None:
    known = library()
    async with running(library=known, lora_root=root) as rig:
        await load(rig, "mine", "a")
        assert (await load(rig, "mine", "a")).status_code == 200
        taken = await load(rig, "mine", "b")
        assert taken.status_code == 409
        assert taken.json()["error"]["param"] == "lora_name"
        assert (await load(rig, "mine", "b", load_inplace=True)).status_code == 200
        weights = known.find("mine")
        assert weights is not None
        assert tokens(await rig.post(model="mine")) == continuation(PROMPT, 6, weights.identity)


@pytest.mark.parametrize(
    ("make", "status", "told"),
    [
        (lambda rig: load(rig, "x", "../outside"), 400, "under --lora-root"),
        (lambda rig: load(rig, "x", "none"), 400, "under --lora-root"),
        (lambda rig: load(rig, "echo", "a"), 400, "no name for an adapter"),
        (lambda rig: load(rig, "x", "a", base_model_name=1), 400, "base_model_name"),
        (lambda rig: load(rig, "", "a"), 400, "lora_name"),
        (lambda rig: unload(rig, "x"), 404, "'x' is not loaded"),
    ],
)
async def test_what_cannot_be_done_is_refused(
    root: Path, make: Callable[[Rig], asyncio.Future[httpx.Response]], status: int, told: str
) -> None:
    async with running(library=library(), lora_root=root) as rig:
        answer = await make(rig)
        assert answer.status_code == status
        assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("known", "told"), [(library(), "--enable-runtime-lora"), (None, "takes no adapters")]
)
async def test_loading_has_to_be_allowed(known: AdapterLibrary | None, told: str) -> None:
    async with running(library=known) as rig:
        for answer in (await load(rig, "x", "a"), await unload(rig, "x")):
            assert answer.status_code == 403
            assert told in answer.json()["error"]["message"]


async def test_what_nobody_uses_leaves_memory(root: Path) -> None:
    """Neither slots nor pages nor answers that were given keep an unloaded adapter alive."""
    known = AdapterLibrary(ROOM, capacity=1, base="echo")
    async with running(library=known, lora_root=root) as rig:
        for name in "abc":
            assert (await load(rig, name, name)).status_code == 200
            assert (await rig.post(model=name, n=2)).status_code == 200
            assert (await load(rig, "more", name)).status_code == 409
            assert (await unload(rig, name)).status_code == 200
