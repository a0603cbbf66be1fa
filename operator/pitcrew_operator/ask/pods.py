"""Measures the pods of a canary beside those of the stable revision.

A canary's pods are young: all that they have counted belongs to the rollout, also what a process counted
that has ended since. Of the stable ones counts what came after they were first looked at.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from pitcrew_operator.ask.exposition import Totals, add_up, read_totals
from pitcrew_operator.ask.http import Http, NoAnswer
from pitcrew_operator.ask.keys import Keys
from pitcrew_operator.plan.questions import ComparePods
from pitcrew_operator.plan.rollout.analysis import Agreement, Evidence

_SECONDS_PER_TOKEN: Final = 0.5
"""Of a golden prompt's answer, at most; a slow model is not one that fails."""
_NAME_A_KEY: Final = (
    "; name a Secret with an API key that the pods of both revisions take in "
    "analysis.golden.keySecretRef"
)


@dataclass
class Tally:
    """What was counted at one address since it was first looked at, whatever process counted it."""

    last: Totals = field(default_factory=Totals)
    counted: Totals = field(default_factory=Totals)

    def count(self, totals: Totals) -> None:
        """Take the newest look in."""
        self.counted = self.counted.plus(totals.since(self.last))
        self.last = totals


@dataclass
class PodWatch:
    """Remembers, for one rollout, what each pod has counted and what the engines said."""

    canary: dict[str, Tally] = field(default_factory=dict)
    stable: dict[str, Tally] = field(default_factory=dict)
    agreement: Agreement | None = None

    async def compare(self, http: Http, keys: Keys, question: ComparePods) -> Evidence:
        """Look at every pod; ask the prompts once. What fails is told and tried again."""
        problems: list[str] = []
        canary = await _look(http, question.canary, problems)
        stable = await _look(http, question.stable, problems)
        for address, totals in canary.items():
            self.canary.setdefault(address, Tally()).count(totals)
        for address, totals in stable.items():
            self.stable.setdefault(address, Tally(totals)).count(totals)
        if question.prompts and self.agreement is None:
            await self._ask_both(http, keys, question, problems)
        return Evidence(
            canary=add_up([tally.counted for tally in self.canary.values()]),
            stable=add_up([tally.counted for tally in self.stable.values()]),
            agreement=self.agreement,
            problem="; ".join(problems) or None,
        )

    async def _ask_both(
        self, http: Http, keys: Keys, question: ComparePods, problems: list[str]
    ) -> None:
        try:
            key = await keys.read(question.api_key) if question.api_key else None
            stable, canary = await asyncio.gather(
                _continue(http, question.stable[0], question, key),
                _continue(http, question.canary[0], question, key),
            )
        except NoAnswer as error:
            text = f"the golden prompts cannot be asked: {error}"
            problems.append(text + (_NAME_A_KEY if "answers 401" in str(error) else ""))
        else:
            self.agreement = agreement(stable, canary)


async def _look(http: Http, addresses: Sequence[str], problems: list[str]) -> dict[str, Totals]:
    """The counters of each pod."""

    async def one(address: str) -> Totals | None:
        try:
            return read_totals(await http.text(f"{address}/metrics"))
        except NoAnswer as error:
            problems.append(f"metrics: {error}")
            return None

    found = await asyncio.gather(*(one(address) for address in addresses))
    return {a: totals for a, totals in zip(addresses, found, strict=True) if totals is not None}


async def _continue(
    http: Http, address: str, question: ComparePods, key: str | None
) -> list[list[str]]:
    """The tokens of one pod's greedy answer to each prompt, one prompt at a time."""
    models = await http.json(f"{address}/v1/models", key=key)
    answers = []
    for prompt in question.prompts:
        body = {
            "model": _first_model(models, address),
            "prompt": prompt,
            "max_tokens": question.max_tokens,
            "temperature": 0,
            "logprobs": 0,
        }
        more = question.max_tokens * _SECONDS_PER_TOKEN
        document = await http.json(f"{address}/v1/completions", body, key, more)
        answers.append(_tokens(document, address))
    return answers


def _first_model(document: object, address: str) -> str:
    match document:
        case {"data": [{"id": str(name)}, *_]}:
            return name
    raise NoAnswer(f"{address}/v1/models lists no model")


def _tokens(document: object, address: str) -> list[str]:
    match document:
        case {"choices": [{"logprobs": {"tokens": list(tokens)}}, *_]}:
            return [str(token) for token in tokens]
    raise NoAnswer(f"{address}/v1/completions tells no tokens")


def agreement(stable: Sequence[Sequence[str]], canary: Sequence[Sequence[str]]) -> Agreement:
    """Tokens that the canary repeats before it differs for the first time, answer by answer."""
    equal = sum(
        len(list(takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))))
        for old, new in zip(stable, canary, strict=True)
    )
    return Agreement(equal, sum(map(len, stable)))
