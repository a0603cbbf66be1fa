"""Word error rate: substitutions, deletions and insertions for each word of the references.

The least number of edits is Levenshtein's distance over words (Wagner and Fischer 1974, "The
String-to-String Correction Problem"). Words are what white space parts; case counts.
"""

from collections.abc import Sequence


def word_error_rate(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Edits over words of the references, in percent: 0 is perfect, and more than 100 can be.

    Each answer [n] is compared with the reference [n][any] that it is nearest to. A reference has
    one word at least.
    """
    edits = words = 0
    for answer, accepted in zip(answers, references, strict=True):
        own = answer.split()
        choices = [(edit_distance(own, text.split()), len(text.split())) for text in accepted]
        nearest, length = min(choices, key=lambda choice: choice[0] / choice[1])
        edits, words = edits + nearest, words + length
    return 100 * edits / words


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that turn `left` into `right`."""
    row = list(range(len(right) + 1))
    for count, word in enumerate(left, 1):
        diagonal, row[0] = row[0], count
        for column, other in enumerate(right, 1):
            kept = diagonal + (word != other)
            diagonal = row[column]
            row[column] = min(kept, diagonal + 1, row[column - 1] + 1)
    return row[-1]
