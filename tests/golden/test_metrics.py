"""Task metrics against sacreBLEU, jiwer and the examples that their authors publish."""

import json
from pathlib import Path
from typing import Any

import pytest

from pitcrew_builder.proof.metrics.bleu import bleu
from pitcrew_builder.proof.metrics.exact_match import exact_match
from pitcrew_builder.proof.metrics.word_error import word_error_rate

CASES = json.loads((Path(__file__).parent / "data" / "metrics.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_bleu_is_sacrebleus(case: dict[str, Any]) -> None:
    assert bleu(case["answers"], case["references"]) == pytest.approx(case["bleu"], abs=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_word_error_rate_is_jiwers(case: dict[str, Any]) -> None:
    first = [[accepted[0]] for accepted in case["references"]]
    assert word_error_rate(case["answers"], first) == pytest.approx(case["wer_of_first"], abs=1e-9)


def test_bleu_of_sacrebleus_readme() -> None:
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    answers = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    assert round(bleu(answers, references), 2) == 48.53


def test_word_error_rates_of_jiwers_readme() -> None:
    assert word_error_rate(["hello duck"], [["hello world"]]) == 50
    two = word_error_rate(
        ["hello duck", "i like python"], [["hello world"], ["i like monty python"]]
    )
    assert two == pytest.approx(100 * 2 / 6)


def test_exact_match_leaves_case_articles_punctuation_and_spacing_out() -> None:
    answers = ["The  Denver Broncos!", "a cat", "Santa Clara", "in theory"]
    references = [["Denver Broncos"], ["dog", "the cat"], ["San Jose"], ["in ory"]]
    assert exact_match(answers, references) == 50
