"""Tasks: the users' own questions and references decide, with the perplexity, what is published."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pitcrew_builder.errors import InvalidSpec, ValidationFailed
from pitcrew_builder.manifest import Manifest, TaskScore
from pitcrew_builder.network import open_network
from pitcrew_builder.paged_runner import PagedRunner
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.prompts.questions import read_paper
from pitcrew_builder.proof.gate import check_tasks
from pitcrew_builder.report import Succeeded
from pitcrew_builder.spec import BuildSpec, Prompts, Task, TaskMetric
from tests.unit.builder.conftest import Run

SAMPLE = Path(__file__).parents[3] / "samples" / "models" / "tiny-kjv"
TOKENS = 6
QUESTIONS = [
    "In the beginning God created",
    "And the LORD said unto Moses",
    "To be, or not to be",
    "Now therefore hear the word of",
]


def _write(file: Path, lines: Sequence[object]) -> dict[str, Any]:
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return {"path": str(file)}


def _held_out(tmp_path: Path) -> dict[str, Any]:
    lines = (SAMPLE / "heldout-text.txt").read_text().split("\n")
    texts = [line[:200] for line in lines if len(line) > 100][:4]
    return _write(tmp_path / "held-out.jsonl", [{"text": text} for text in texts])


def _build(tmp_path: Path, document: dict[str, Any]) -> tuple[Succeeded, Manifest]:
    source = {"kind": "local", "path": str(SAMPLE), "name": "tiny-kjv"}
    shapes = {"maxBatchSize": 3, "maxSequenceLength": 128, "kvPageSize": 16}
    spec = BuildSpec.model_validate({"source": source, "shapes": shapes, **document})
    done = build(spec, Places(tmp_path / "store", tmp_path / "cache"), Tracker(lambda _: None))
    manifest = (tmp_path / "store" / done.path / "manifest.json").read_text()
    return done, Manifest.model_validate_json(manifest)


def _own_answers(tmp_path: Path) -> list[str]:
    """What the unquantized engine answers, one prompt and one token at a time."""
    from tokenizers import Tokenizer

    done, manifest = _build(tmp_path, {})
    root = tmp_path / "store" / done.path
    tokenizer = Tokenizer.from_file(str(root / "tokenizer" / "tokenizer.json"))
    network = open_network([(root, manifest.ranks[0])])
    answers = []
    for question in QUESTIONS:
        runner = PagedRunner(network, manifest.model, page=16, capacity=64)
        ids = tokenizer.encode(question).ids
        begin = manifest.model.bos_token_id
        fed = ids if begin is None or ids[:1] == [begin] else [begin, *ids]
        answer: list[int] = []
        for _ in range(TOKENS):
            answer.append(int(runner.extend(fed)[-1].argmax()))
            fed = answer[-1:]
        answers.append(tokenizer.decode(answer))
    return answers


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    """A task at which the unquantized engine is perfect."""
    pairs = zip(QUESTIONS, _own_answers(tmp_path), strict=True)
    lines = [{"prompt": question, "reference": answer} for question, answer in pairs]
    prompts = _write(tmp_path / "questions.jsonl", lines)
    return {"metric": "exact-match", "prompts": prompts, "maxTokens": TOKENS}


def test_engine_and_reference_are_scored_and_the_scores_are_told(
    tmp_path: Path, task: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [{**task, "metric": metric, "maxRegression": "100"} for metric in TaskMetric]
    proof = {"prompts": _held_out(tmp_path), "maxPerplexityIncrease": "9", "tasks": tasks}
    done, manifest = _build(tmp_path, {"quantization": {"weights": "int8"}, "proof": proof})
    assert manifest.proof is not None
    scores = {score.metric: score for score in manifest.proof.tasks}
    perfect = {metric: score.reference_score for metric, score in scores.items()}
    assert perfect == {"exact-match": 100, "bleu": pytest.approx(100), "wer": 0}
    assert scores[TaskMetric.EXACT_MATCH].score in {25 * n for n in range(5)}
    assert scores[TaskMetric.EXACT_MATCH].samples == len(QUESTIONS)
    assert done.proof is not None
    assert [told.score for told in done.proof.tasks] == [s.score for s in manifest.proof.tasks]

    from pitcrew_builder.engine_cli import main

    store, page = str(tmp_path / "store"), tmp_path / "page.html"
    assert main(["show", done.engine_id, "--store", store]) == 0
    assert main(["show", done.engine_id, "--store", store, "--html", str(page)]) == 0
    assert "exact-match" in capsys.readouterr().out
    assert "exact-match" in page.read_text()


def test_an_engine_that_answers_worse_is_not_published(
    tmp_path: Path, task: dict[str, Any]
) -> None:
    quantization = {"weights": "int4"}
    proof = {"prompts": _held_out(tmp_path), "maxPerplexityIncrease": "99", "tasks": [task]}
    told = r"task 1 \(exact-match, 4 questions\) goes from 100\.00 unquantized to .* 5 points"
    with pytest.raises(ValidationFailed, match=told):
        _build(tmp_path, {"quantization": quantization, "proof": proof})
    assert len(list((tmp_path / "store").rglob("manifest.json"))) == 1  # the fixture's


def test_a_found_engine_is_judged_by_its_recorded_scores(
    tmp_path: Path, task: dict[str, Any]
) -> None:
    proof = {"prompts": _held_out(tmp_path), "tasks": [{**task, "metric": "wer"}]}
    first, manifest = _build(tmp_path, {"proof": proof})
    assert manifest.proof is not None
    assert manifest.proof.tasks[0].reference_score is None
    strict = [{**task, "metric": "wer", "threshold": "0"}]
    again, _ = _build(tmp_path, {"proof": {**proof, "tasks": strict}})
    assert (again.cached, again.engine_id) == (True, first.engine_id)
    other, _ = _build(tmp_path, {"proof": {**proof, "tasks": [task]}})
    assert other.engine_id != first.engine_id


def test_a_stop_text_ends_an_answer(tmp_path: Path, task: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in Path(task["prompts"]["path"]).read_text().splitlines()]
    cut = [{**line, "reference": line["reference"].split("e")[0]} for line in lines]
    asked = [line for line in cut if line["reference"].strip()]
    prompts = _write(tmp_path / "cut.jsonl", asked)
    tasks = [{**task, "prompts": prompts, "stop": ["e"], "threshold": "100"}]
    _, manifest = _build(tmp_path, {"proof": {"prompts": _held_out(tmp_path), "tasks": tasks}})
    assert manifest.proof is not None
    assert (manifest.proof.tasks[0].score, manifest.proof.tasks[0].samples) == (100, len(asked))


def test_a_question_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    lines = [{"prompt": "In the beginning " * 40, "reference": "God"}]
    task = {"metric": "bleu", "prompts": _write(tmp_path / "long.jsonl", lines)}
    with pytest.raises(InvalidSpec, match=r"maxTokens 64 are more than .*maxSequenceLength 128"):
        _build(tmp_path, {"proof": {"prompts": _held_out(tmp_path), "tasks": [task]}})


def test_the_command_line_takes_tasks_with_chats(tmp_path: Path, run_build: Run) -> None:
    chat = {"messages": [{"role": "user", "content": "Who created the heaven?"}]}
    questions = _write(tmp_path / "chats.jsonl", [{**chat, "references": ["God", "the LORD"]}])
    flags = ["--proof", _held_out(tmp_path)["path"], "--task", f"bleu={questions['path']}"]
    done = run_build(SAMPLE, *flags, "--max-batch-size", "1").succeeded
    assert done.proof is not None
    assert [told.metric for told in done.proof.tasks] == ["bleu"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"text": "a", "reference": "b"}, "line 1: it has neither prompt nor messages"),
        ({"prompt": "a"}, "line 1: it has no reference"),
        ({"prompt": "a", "reference": " "}, "without a word"),
        ({"prompt": "a", "references": [1]}, "line 1: Input should be a valid string"),
    ],
)
def test_bad_questions_are_refused_by_line(tmp_path: Path, line: object, told: str) -> None:
    prompts = Prompts.model_validate(_write(tmp_path / "q.jsonl", [line]))
    with pytest.raises(InvalidSpec, match=told):
        read_paper(Task(metric=TaskMetric.WER, prompts=prompts), "proof.tasks[0].prompts")


def test_order_and_repetition_of_questions_do_not_matter(tmp_path: Path) -> None:
    lines = [{"prompt": str(n), "references": [str(n), "x"]} for n in range(5)]
    one = Prompts.model_validate(_write(tmp_path / "a", lines))
    two = Prompts.model_validate(_write(tmp_path / "b", [*reversed(lines), lines[2]]))
    papers = [read_paper(Task(metric=TaskMetric.WER, prompts=p), "field") for p in (one, two)]
    assert papers[0].digest == papers[1].digest
    limited = one.model_copy(update={"samples": 2})
    assert len(read_paper(Task(metric=TaskMetric.WER, prompts=limited), "f").questions) == 2


@pytest.mark.parametrize(
    ("metric", "score", "reference", "fails"),
    [
        ("bleu", 30, 34, False),
        ("bleu", 30, 36, True),
        ("bleu", 19, None, True),
        ("wer", 30, 26, True),
        ("wer", 19, 16, False),
        ("wer", float("nan"), None, True),
    ],
)
def test_the_threshold_is_a_floor_and_for_wer_a_ceiling(
    metric: TaskMetric, score: float, reference: float | None, fails: bool
) -> None:
    prompts = Prompts(path="x")
    task = Task(metric=TaskMetric(metric), prompts=prompts, threshold="20", max_regression="5")
    told = TaskScore(metric=task.metric, samples=9, score=score, reference_score=reference)
    if fails:
        with pytest.raises(ValidationFailed, match=r"task 1 .* 9 questions"):
            check_tasks([told], [task])
    else:
        check_tasks([told], [task])
