"""Exact match as SQuAD counts it.

Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1:
punctuation, articles, case and spacing do not count, and the best of the references does.
"""

import re
import string
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Percentage of answers [n] that equal one of their references [n][any], 0 to 100."""
    matched = sum(
        normalized(answer) in map(normalized, accepted)
        for answer, accepted in zip(answers, references, strict=True)
    )
    return 100 * matched / len(answers)


def normalized(text: str) -> str:
    """What two answers have to share to be one."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())
