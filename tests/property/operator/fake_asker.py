"""Pods that answer every question at once, as they are told to."""

from collections.abc import Callable, Hashable, Mapping

from pitcrew_operator.plan.questions import Answer, ComparePods, Proven, Question
from pitcrew_operator.plan.rollout.analysis import Evidence, Sample


class FakeAsker:
    """Implements `pitcrew_operator.ask.asker.Asker`."""

    def __init__(self, wake: Callable[[Hashable], None] = lambda key: None) -> None:
        self.wake = wake
        self.asked: list[Question] = []
        self.proven = Proven(None)
        self.evidence = Evidence(Sample(requests=100), Sample(requests=100))
        self._answers: dict[Hashable, dict[str, Answer]] = {}

    def ask(self, key: Hashable, question: Question) -> None:
        self.asked.append(question)
        compares = isinstance(question, ComparePods)
        answer: Answer = self.evidence if compares else self.proven
        known = self._answers.setdefault(key, {})
        if known.get(question.subject) != answer:
            known[question.subject] = answer
            self.wake(key)

    def answers(self, key: Hashable) -> Mapping[str, Answer]:
        return self._answers.get(key, {})

    def forget(self, key: Hashable) -> None:
        self._answers.pop(key, None)
