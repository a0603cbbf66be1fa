"""`best_of`: more candidates are generated than are answered, and the likeliest win."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pitcrew_runtime.server.choice import Delta


@dataclass(frozen=True, slots=True)
class Contest:
    """For each prompt, `winners` of `candidates`."""

    candidates: int = 1
    winners: int = 1

    def best(self, deltas: Sequence[Delta]) -> Sequence[Delta]:
        """Of each prompt's candidates, which stand together, the best ones, best first.

        As OpenAI defines it: by the highest log probability per token.
        """
        if self.candidates == self.winners:
            return deltas
        groups = range(0, len(deltas), self.candidates)
        won = [one for begin in groups for one in self._won(deltas[begin:][: self.candidates])]
        return [replace(delta, index=index) for index, delta in enumerate(won)]

    def _won(self, deltas: Sequence[Delta]) -> Sequence[Delta]:
        return sorted(deltas, key=_likelihood, reverse=True)[: self.winners]


NO_CONTEST = Contest()


def _likelihood(delta: Delta) -> float:
    """Mean log probability of the tokens in the text; of an empty text, nothing is likelier."""
    found = [one.logprob for one in delta.sampled if one.logprob is not None]
    return sum(found) / len(found) if found else 0.0
