"""Write `data/metrics.json`: answers and references with the figures of sacreBLEU and jiwer.

Run with sacrebleu 2.6.0 and jiwer 4.0.0, of which Pitcrew needs neither:

    uv run --no-project --with sacrebleu==2.6.0 --with jiwer==4.0.0 tests/golden/generate_metrics.py
"""

import json
import random
from pathlib import Path

import jiwer
import sacrebleu

TEXT = (
    "In the beginning God created the heaven and the earth . it's 3.5 1,000 2-3 5- (yes) end. "
    'A&amp;B &quot;quoted&quot; naïve café “so” x/y well-known U.S.A. #tag $5 "a" b, c; d: e!'
)
WORDS = TEXT.split()
ALIKE = 0.75
"""How often a word of an answer is the reference's."""


def text(random_: random.Random, most: int) -> str:
    return " ".join(random_.choices(WORDS, k=random_.randint(1, most)))


def near(random_: random.Random, reference: str) -> str:
    """The reference with words exchanged, left out and put in."""
    words = []
    for word in reference.split():
        kept = random_.random() < ALIKE
        words += [word] if kept else random_.choices(WORDS, k=random_.randint(0, 2))
    return " ".join(words)


def case(random_: random.Random, count: int, references: int) -> dict[str, object]:
    accepted = [[text(random_, 20) for _ in range(references)] for _ in range(count)]
    answers = [near(random_, random_.choice(each)) for each in accepted]
    streams = [list(stream) for stream in zip(*accepted, strict=True)]
    # jiwer takes one reference each: the first.
    words = jiwer.wer([" ".join(each[0].split()) for each in accepted], answers)
    return {
        "answers": answers,
        "references": accepted,
        "bleu": sacrebleu.corpus_bleu(answers, streams).score,
        "wer_of_first": 100 * words,
    }


def main() -> None:
    random_ = random.Random(20)
    cases = [
        case(random_, count, 1 + index % 3) for index, count in enumerate([1, 2, 3, 5, 20] * 4)
    ]
    file = Path(__file__).parent / "data" / "metrics.json"
    file.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
