"""The tokens are the reference's: alone, together, chunked, preempted."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.runtime.conftest import Engines, Serve
from tests.integration.runtime.servers import Server, token_ids, wait_until

GOLDEN = np.load(Path(__file__).parents[2] / "golden/data/llama3/expected.npz")
PROMPTS: list[list[int]] = GOLDEN["prompt"].tolist()
GREEDY: list[list[int]] = GOLDEN["greedy"].tolist()
ASKED: dict[str, Any] = {
    "model": "model",
    "max_tokens": len(GREEDY[0]),
    "temperature": 0,
    "extra_body": {"ignore_eos": True, "return_token_ids": True},
}
TIGHT = ("--max-step-tokens", "9", "--max-batch-size", "4")


@pytest.fixture(scope="module", params=[(), ("--kv-page-size", "7")], ids=["page16", "page7"])
def engine(request: pytest.FixtureRequest, engines: Engines) -> Path:
    return engines("llama3", *request.param)


async def concurrently(server: Server, prompts: list[list[int]]) -> list[list[int]]:
    async with server.async_client as client:
        answers = await asyncio.gather(
            *(client.completions.create(prompt=prompt, **ASKED) for prompt in prompts)
        )
    return [token_ids(answer)[0] for answer in answers]


@pytest.mark.parametrize("options", [(), TIGHT], ids=["roomy", "chunked"])
async def test_goldens(engine: Path, options: tuple[str, ...], serve: Serve) -> None:
    with serve(engine, *options) as server:
        for prompt, greedy in zip(PROMPTS, GREEDY, strict=True):
            assert await concurrently(server, [prompt]) == [greedy]
        assert await concurrently(server, PROMPTS * 4) == GREEDY * 4
        with server.client as client:
            assert token_ids(client.completions.create(prompt=PROMPTS, **ASKED)) == GREEDY


async def test_preempted_requests_keep_their_tokens(engine: Path, serve: Serve) -> None:
    # Three prompts of 40 tokens fit into 176, three whole sequences of 64 do not, unless equal ones share.
    bytes_per_token = 2 * 3 * 2 * 16 * 4
    memory = str(176 * bytes_per_token)
    with serve(engine, "--kv-memory", memory, "--no-prefix-cache") as server:
        # One request with many prompts: they stand in the queue at once, however busy the machine.
        async with server.async_client as client:
            answer = await client.completions.create(prompt=PROMPTS * 6, **ASKED)
        assert token_ids(answer) == GREEDY * 6
        assert server.metric("pitcrew_preemptions_total") > 0
        wait_until(server.empty, "all pages are free")
