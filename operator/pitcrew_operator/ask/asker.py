"""Questions to pods are asked in the background: a pod that does not answer delays nobody.

Whoever asks goes on at once. When the answer is there, the resource is looked at again and finds it.
Answers live in memory alone; an operator that restarts asks again.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from pitcrew_operator.ask.http import Http
from pitcrew_operator.ask.keys import Keys
from pitcrew_operator.ask.pods import PodWatch
from pitcrew_operator.ask.service import prove_service
from pitcrew_operator.plan.questions import Answer, ComparePods, ProveService, Question

_FRESH_SECONDS: Final = 0.9
_AT_A_TIME: Final = 16

logger = logging.getLogger(__name__)


class Asker(Protocol):
    """Asks pods for the resources that want to know. Keys are compared and never looked into."""

    def ask(self, key: Hashable, question: Question) -> None:
        """Begin to ask, unless that is under way or was answered a moment ago."""

    def answers(self, key: Hashable) -> Mapping[str, Answer]:
        """The newest answer to each of the resource's last questions, by subject."""

    def forget(self, key: Hashable) -> None:
        """The resource is gone."""


class SilentAsker:
    """Asks nobody: for looks from outside, which must not send requests to pods."""

    def ask(self, key: Hashable, question: Question) -> None:
        """See Asker."""

    def answers(self, key: Hashable) -> Mapping[str, Answer]:
        """See Asker."""
        return {}

    def forget(self, key: Hashable) -> None:
        """See Asker."""


@dataclass
class _Thread:
    """What is going on about one kind of question of one resource."""

    subject: str
    watch: PodWatch = field(default_factory=PodWatch)
    answer: Answer | None = None
    answered: float = float("-inf")
    tries: int = 0
    task: asyncio.Task[None] | None = None


class PodAsker:
    """Over HTTP."""

    def __init__(self, http: Http, keys: Keys, wake: Callable[[Hashable], None]) -> None:
        self._http, self._keys, self._wake = http, keys, wake
        self._threads: dict[Hashable, dict[type, _Thread]] = {}
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    def ask(self, key: Hashable, question: Question) -> None:
        """See Asker."""
        threads = self._threads.setdefault(key, {})
        thread = threads.get(type(question))
        if thread is None or thread.subject != question.subject:
            _stop(thread)
            thread = threads[type(question)] = _Thread(question.subject)
        is_running = thread.task is not None and not thread.task.done()
        if is_running or asyncio.get_running_loop().time() - thread.answered < _FRESH_SECONDS:
            return
        thread.task = asyncio.create_task(self._run(key, thread, question))

    def answers(self, key: Hashable) -> Mapping[str, Answer]:
        """See Asker."""
        threads = self._threads.get(key, {}).values()
        return {t.subject: t.answer for t in threads if t.answer is not None}

    def forget(self, key: Hashable) -> None:
        """See Asker."""
        for thread in self._threads.pop(key, {}).values():
            _stop(thread)

    async def close(self) -> None:
        """Stop asking."""
        for key in tuple(self._threads):
            self.forget(key)
        await self._http.close()

    async def _run(self, key: Hashable, thread: _Thread, question: Question) -> None:
        try:
            async with self._slots:
                thread.answer = await self._answer(thread, question)
        except Exception:
            # What pods send is not ours: whatever it does, the resource is asked about again.
            logger.exception("%s: cannot ask its pods", key)
        thread.answered = asyncio.get_running_loop().time()
        self._wake(key)

    async def _answer(self, thread: _Thread, question: Question) -> Answer:
        match question:
            case ProveService():
                thread.tries += 1
                return replace(await prove_service(self._http, question), tries=thread.tries)
            case ComparePods():
                return await thread.watch.compare(self._http, self._keys, question)


def _stop(thread: _Thread | None) -> None:
    if thread is not None and thread.task is not None:
        thread.task.cancel()
