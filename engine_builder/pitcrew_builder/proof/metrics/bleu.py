"""BLEU of a whole set of answers, comparable with published figures.

Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation": the
geometric mean of clipped n-gram precisions, times a penalty for brevity. Words, smoothing and the
choice of the reference's length follow sacreBLEU (Post 2018, "A Call for Clarity in Reporting BLEU
Scores"), signature `case:mixed|eff:no|tok:13a|smooth:exp`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

ORDER = 4
"""Words of the longest n-gram."""

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# NIST's mteval-v13a: signs stand alone; dots and commas do outside of numbers, a dash after one.
_RULES = (
    (re.compile(r"([!-&(-+:-@/\[-`{-~])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


@dataclass(slots=True)
class _Counts:
    """Sums over answers; lists by n-gram order."""

    length: int = 0
    reference_length: int = 0
    matched: list[int] = field(default_factory=lambda: [0] * ORDER)
    possible: list[int] = field(default_factory=lambda: [0] * ORDER)

    def add(self, answer: list[str], accepted: list[list[str]]) -> None:
        self.length += len(answer)
        # The nearest length; of two as near, the shorter.
        self.reference_length += min(
            (len(words) for words in accepted),
            key=lambda length: (abs(length - len(answer)), length),
        )
        for order in range(ORDER):
            own = _ngrams(answer, order + 1)
            allowed = reduce(or_, (_ngrams(words, order + 1) for words in accepted))
            self.matched[order] += (own & allowed).total()
            self.possible[order] += own.total()


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The score of answers [n] over references [n][any], 0 to 100; 0 where none has four words."""
    counts = _Counts()
    for answer, accepted in zip(answers, references, strict=True):
        counts.add(words_of(answer), [words_of(text) for text in accepted])
    if counts.matched[0] == 0 or 0 in counts.possible:
        return 0.0
    mean = sum(math.log(precision) for precision in _precisions(counts)) / ORDER
    penalty = min(0.0, 1 - counts.reference_length / counts.length)
    return 100 * math.exp(mean + penalty)


def _precisions(counts: _Counts) -> Iterable[float]:
    """Clipped precision by order; the n-th one without a match counts as 2^-n matches."""
    share = 1.0
    for matched, possible in zip(counts.matched, counts.possible, strict=True):
        if matched == 0:
            share /= 2
        yield (matched or share) / possible


def words_of(text: str) -> list[str]:
    """The words of a text, as mteval-v13a parts them."""
    line = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, sign in _ENTITIES:
        line = line.replace(name, sign)
    line = f" {line} "
    for pattern, spaced in _RULES:
        line = pattern.sub(spaced, line)
    return line.split()


def _ngrams(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))
