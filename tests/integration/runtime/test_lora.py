"""Adapters on a real engine: PEFT's tokens, whoever shares the batch and whatever is loaded meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from safetensors.numpy import load_file

from tests.integration.runtime.conftest import Engines, Serve
from tests.integration.runtime.servers import Server, command, token_ids
from tests.unit.runtime.peft import save

DATA = Path(__file__).parents[2] / "golden/data"
ROOM = ("--max-loras", "2", "--max-lora-rank", "8")
ASKED: dict[str, Any] = {
    "max_tokens": 12,
    "temperature": 0,
    "extra_body": {"ignore_eos": True, "return_token_ids": True},
}


def _prompts(place: str) -> list[list[int]]:
    with np.load(DATA / place / "expected.npz") as data:
        prompts: list[list[int]] = data["prompt"].tolist()
    return prompts


PROMPTS = _prompts("llama3")


@pytest.fixture(scope="module")
def engine(engines: Engines) -> Path:
    return engines("llama3", *ROOM)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEFT's adapter as `0`, and three that are like it but for their strength and rank."""
    root = tmp_path_factory.mktemp("adapters")
    tensors = load_file(DATA / "adapters/llama-lora/adapter_model.safetensors")
    save(root / "0", tensors, r=4, lora_alpha=12)
    for number, alpha in ((1, -12), (2, 20)):
        save(root / str(number), tensors, r=4, lora_alpha=alpha)
    narrow = {name: t[:2] if "lora_A" in name else t[:, :2] for name, t in tensors.items()}
    save(root / "3", {name: t.copy() for name, t in narrow.items()}, r=2, lora_alpha=6)
    return root


def options(root: Path, *numbers: int) -> list[str]:
    return ["--lora-modules", *(f"lora{number}={root / str(number)}" for number in numbers)]


async def ask(server: Server, models: list[str], prompt: list[int]) -> list[list[int]]:
    """The same of several models at once."""
    async with server.async_client as client:
        answers = await asyncio.gather(
            *(client.completions.create(model=model, prompt=prompt, **ASKED) for model in models)
        )
    assert [answer.model for answer in answers] == models
    return [token_ids(answer)[0] for answer in answers]


async def test_next_tokens_are_those_of_peft(engine: Path, root: Path, serve: Serve) -> None:
    with np.load(DATA / "adapters/llama-lora/expected.npz") as data:
        prompt, best = data["prompt"][0].tolist(), data["logits"][0].argmax(axis=-1).tolist()
    with serve(engine, *options(root, 0)) as server:
        for length in range(1, len(prompt), 6):
            (tokens,) = await ask(server, ["lora0"], prompt[:length])
            assert tokens[0] == best[length - 1]


async def test_a_mixed_batch_gives_the_tokens_of_each_alone(
    engine: Path, root: Path, serve: Serve
) -> None:
    """Four adapters take turns in two slots, in small chunks, beside requests without one."""
    models = ["model", *(f"lora{number}" for number in range(4))]
    tight = ("--max-step-tokens", "24", "--max-batch-size", "8", "--max-cpu-loras", "4")
    with serve(engine, *options(root, 0, 1, 2, 3), *tight) as server:
        for prompt in PROMPTS:
            alone = [(await ask(server, [model], prompt))[0] for model in models]
            assert len({tuple(tokens) for tokens in alone}) == len(models)
            assert await ask(server, models * 4, prompt) == alone * 4


async def test_adapters_come_and_go_while_others_are_answered(
    engine: Path, root: Path, serve: Serve
) -> None:
    runtime = ("--enable-runtime-lora", "--lora-root", str(root))
    with serve(engine, *options(root, 0), *runtime) as server:
        alone = (await ask(server, ["model", "lora0"], PROMPTS[0]))[:2]
        asking = asyncio.create_task(ask(server, ["model", "lora0"] * 8, PROMPTS[0]))
        async with httpx.AsyncClient(base_url=server.url) as client:
            for _ in range(3):
                for number in (1, 2, 3):
                    body = {"lora_name": f"x{number}", "lora_path": str(number)}
                    answer = await client.post("/v1/load_lora_adapter", json=body)
                    assert answer.status_code == 200, answer.text
                    await ask(server, [f"x{number}"], PROMPTS[1][:5])
                    answer = await client.post(
                        "/v1/unload_lora_adapter", json={"lora_name": f"x{number}"}
                    )
                    assert answer.status_code == 200, answer.text
        assert await asking == alone * 8
        with server.client as client, pytest.raises(openai.NotFoundError):
            client.completions.create(model="x1", prompt=PROMPTS[0], **ASKED)
        listed = [card["id"] for card in server.get("/v1/models").json()["data"]]
        assert listed == ["model", "lora0"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--lora-modules", "x=/nowhere"), "/nowhere is no directory"),
        (("--lora-modules", "x"), "'x' is not NAME=DIR"),
        (("--enable-runtime-lora",), "--lora-root None"),
        (("--max-loras", "3"), "the engine was built for 2"),
    ],
)
async def test_options_that_cannot_be_served_end_the_start(
    engine: Path, flags: tuple[str, ...], told: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *command(engine, *flags), stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert "InvalidOption" in error.decode()
    assert told in error.decode()


async def test_an_engine_without_slots_serves_no_adapter(
    engines: Engines, root: Path, serve: Serve
) -> None:
    process = await asyncio.create_subprocess_exec(
        *command(engines("llama3"), *options(root, 0)), stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert "--lora-modules: this engine takes no adapters" in error.decode()
