"""Three hundred requests on a real network, in every kind of company, each as if it were alone."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.request import GREEDY, Finish, Request, Sampling
from pitcrew_runtime.drafting import Method, Speculation
from pitcrew_runtime.engine_directory import open_engine
from tests.integration.runtime.conftest import Engines

REQUESTS = 40
LONGEST = 40
NGRAM = Speculation(Method.NGRAM, 4)
DRAFT = Speculation(Method.DRAFT, 3, draft=Path("the engine itself"))
SAMPLED = Sampling(temperature=0.9, top_p=0.95)


@dataclass(frozen=True)
class Company:
    """How one round of requests is served."""

    page_size: int
    batch: int
    budget: int
    """Tokens in a step."""
    tokens_in_pool: int
    sampling: Sampling = GREEDY
    prefix_cache: bool = True
    speculation: Speculation | None = None
    split: tuple[str, ...] = ()
    """Options of a build for several ranks."""


COMPANIES = {
    "chunked": Company(16, 4, 9, 4096),
    "preempted": Company(4, 6, 48, 64),
    "without cache": Company(7, 8, 64, 256, prefix_cache=False),
    "ngram": Company(4, 6, 40, 160, speculation=NGRAM),
    "draft": Company(7, 5, 33, 210, speculation=DRAFT),
    "sampled draft": Company(16, 6, 48, 160, SAMPLED, speculation=DRAFT),
    "two ranks": Company(4, 6, 40, 64, split=("--tensor-parallel", "2")),
    "two stages": Company(7, 5, 33, 210, speculation=NGRAM, split=("--pipeline-parallel", "2")),
}


@dataclass(frozen=True)
class Coming:
    """A request, and when it comes and is cancelled, in steps."""

    request: Request
    arrives: int
    cancelled: int | None


@pytest.mark.parametrize("company", COMPANIES.values(), ids=COMPANIES)
def test_tokens_are_those_of_each_alone(company: Company, engines: Engines) -> None:
    crowd = list(
        crowded(random.Random(company.page_size * 1000 + company.budget), company.sampling)
    )
    engine = serve(company, engines)
    tokens, ends = live(engine, crowd)
    engine.close()
    solitary = replace(company, batch=1, budget=64, prefix_cache=False, speculation=None, split=())
    alone = serve(replace(solitary, tokens_in_pool=LONGEST + company.page_size), engines)
    for coming in crowd:
        request = replace(coming.request, fork_of=None)
        expected, _ = live(alone, [Coming(request, 0, None)])
        found = tokens[request.id]
        whole = ends[request.id] is not Finish.CANCELLED
        assert found == expected[request.id][: None if whole else len(found)]


def test_the_companies_are_what_they_are_called(engines: Engines) -> None:
    def served(name: str) -> Engine:
        company = COMPANIES[name]
        engine = serve(company, engines)
        for seed in range(4):
            live(engine, list(crowded(random.Random(seed), company.sampling)))
        return engine

    gauges = served("preempted").gauges()
    assert gauges.counts.preemptions > 10
    assert gauges.counts.reused_tokens > 100
    assert gauges.pages_used == 0
    assert served("without cache").gauges().counts.reused_tokens > 0, "forks share all the same"
    assert served("ngram").gauges().work.proposed > 10
    assert served("draft").gauges().work.accepted > 100
    assert served("sampled draft").gauges().work.accepted > 100


def serve(company: Company, engines: Engines) -> Engine:
    path = engines("llama3", "--kv-page-size", str(company.page_size), *company.split)
    directory = open_engine(path, 2 if company.split else 1)
    drafts = company.speculation is not None and company.speculation.method is Method.DRAFT
    bytes_per_token = directory.manifest.kv_bytes_per_token * (2 if drafts else 1)
    tuning = Tuning(
        max_batch_size=company.batch,
        max_step_tokens=company.budget,
        kv_memory=company.tokens_in_pool * bytes_per_token,
        threads=1,
        prefix_cache=company.prefix_cache,
        speculation=company.speculation,
    )
    return assemble(directory, tuning, directory if drafts else None)


def crowded(rng: random.Random, sampling: Sampling) -> Iterator[Coming]:
    """Requests with common beginnings, forks among them, spread over some steps."""
    beginnings = [[rng.randrange(256) for _ in range(20)] for _ in range(3)]
    number = 0
    while number < REQUESTS:
        own = [rng.randrange(256) for _ in range(rng.randint(1, 12))]
        prompt = (*rng.choice(beginnings)[: rng.randint(0, 20)], *own)
        arrives, first = rng.randint(0, 30), number
        for _ in range(min(rng.choice((1, 1, 1, 3)), REQUESTS - number)):
            request = Request(
                number,
                prompt,
                rng.randint(1, LONGEST - len(prompt)),
                float(arrives),
                replace(sampling, seed=number),
                fork_of=None if number == first else first,
            )
            leaves = rng.choice((None, None, None, arrives + rng.randint(0, 30)))
            yield Coming(request, arrives, leaves)
            number += 1


def live(engine: Engine, crowd: list[Coming]) -> tuple[dict[int, list[int]], dict[int, Finish]]:
    """Tokens and ends of all."""
    tokens: dict[int, list[int]] = {coming.request.id: [] for coming in crowd}
    ends: dict[int, Finish] = {}
    step = 0
    while len(ends) < len(crowd):
        for coming in crowd:
            if coming.arrives == step:
                engine.submit(coming.request)
            if coming.cancelled == step:
                engine.cancel(coming.request.id)
        for update in engine.step(float(step)).updates:
            if update.sampled is not None:
                tokens[update.request_id].append(update.sampled.token)
            if update.finish is not None:
                assert update.request_id not in ends
                ends[update.request_id] = update.finish
        step += 1
    return tokens, ends
