"""What a model thinks of a given text: `echo` with `logprobs`, as evaluation harnesses ask for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.integration.runtime.conftest import Engines, Serve
from tests.integration.runtime.servers import Server, wait_until

GOLDEN = np.load(Path(__file__).parents[2] / "golden/data/llama3/expected.npz")
PROMPTS: list[list[int]] = GOLDEN["prompt"].tolist()
NAMED = "In the beginning God created the heaven"

SPLITS = {"one rank": (), "two ranks": ("--tensor-parallel", "2")}
HOW: dict[str, tuple[str, ...]] = {
    "roomy": (),
    "chunked": ("--max-step-tokens", "9", "--max-batch-size", "4"),
    "ngram": ("--speculative", "ngram"),
}


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def scored(server: Server, prompt: Any, **more: Any) -> Any:  # noqa: ANN401
    with server.client as client:
        asked = {"max_tokens": 0, "temperature": 0, "logprobs": 1} | more
        answer = client.completions.create(model="model", prompt=prompt, echo=True, **asked)
        return list(answer) if asked.get("stream") else answer


@pytest.mark.parametrize(
    ("split", "how"), [("one rank", "roomy"), ("one rank", "chunked"), ("two ranks", "ngram")]
)
def test_they_are_the_references(split: str, how: str, engines: Engines, serve: Serve) -> None:
    """Asked for together with prompts that begin alike, which must not be taken from the cache."""
    expected = log_softmax(GOLDEN["logits"])
    ranks = ("--world-size", "2") if SPLITS[split] else ()
    with serve(engines("llama3", *SPLITS[split]), *ranks, *HOW[how]) as server:
        answer = scored(server, PROMPTS * 2)
        assert answer.usage.completion_tokens == 0
        for index, choice in enumerate(answer.choices):
            prompt, truth = PROMPTS[index % 2], expected[index % 2]
            assert choice.finish_reason == "length"
            found = choice.logprobs
            assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
            assert len(found.tokens) == len(found.top_logprobs) == len(prompt)
            wanted = [truth[place - 1, prompt[place]] for place in range(1, len(prompt))]
            assert found.token_logprobs[1:] == pytest.approx(wanted, abs=1e-3)
            best = [max(top.values()) for top in found.top_logprobs[1:]]
            assert best == pytest.approx(truth[:-1].max(axis=-1).tolist(), abs=1e-3)
        wait_until(server.empty, "all pages are free")


def test_what_was_generated_is_scored_as_it_was_when_it_was_generated(kjv: Server) -> None:
    """A greedy text is recognized as one: the harness compares each token with the best."""
    with kjv.client as client:
        made = client.completions.create(
            model="model", prompt=NAMED, max_tokens=12, temperature=0, logprobs=1
        ).choices[0]
    again = scored(kjv, NAMED + made.text).choices[0]
    count = len(made.logprobs.tokens)
    assert again.logprobs.tokens[-count:] == made.logprobs.tokens
    assert again.logprobs.token_logprobs[-count:] == pytest.approx(
        made.logprobs.token_logprobs, abs=1e-3
    )
    for token, top in zip(again.logprobs.tokens, again.logprobs.top_logprobs, strict=True):
        assert top is None or token in top
    for token, top in list(zip(again.logprobs.tokens, again.logprobs.top_logprobs, strict=True))[
        -count:
    ]:
        assert max(top, key=top.get) == token


@pytest.mark.parametrize("count", [0, 5])
def test_a_stream_holds_the_same(kjv: Server, count: int) -> None:
    asked = {"max_tokens": count, "logprobs": 2}
    whole = scored(kjv, NAMED, **asked).choices[0]
    text, logprobs, reasons = "", [], []
    for chunk in scored(kjv, NAMED, stream=True, **asked):
        (choice,) = chunk.choices
        text += choice.text
        logprobs.append(choice.logprobs)
        reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == whole.text
    assert text.startswith(NAMED)
    assert reasons == [whole.finish_reason]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in logprobs for one in getattr(part, name)] == getattr(
            whole.logprobs, name
        )
    for token, offset in zip(whole.logprobs.tokens, whole.logprobs.text_offset, strict=True):
        assert whole.text[offset : offset + len(token)] == token


def test_a_prompt_may_fill_the_sequence_where_nothing_is_generated(kjv: Server) -> None:
    answer = scored(kjv, [7] * 1024)
    assert len(answer.choices[0].logprobs.tokens) == 1024
    one = scored(kjv, [7]).choices[0].logprobs
    assert (len(one.tokens), one.token_logprobs) == (1, [None])


def test_nothing_is_generated_without_an_echo_too(kjv: Server) -> None:
    with kjv.client as client:
        answer = client.completions.create(model="model", prompt=NAMED, max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "length")
    assert answer.usage.completion_tokens == 0


def test_the_best_of_several_are_the_likeliest(kjv: Server) -> None:
    how: dict[str, Any] = {"temperature": 1.0, "seed": 30, "max_tokens": 8}
    going_on = {"extra_body": {"ignore_eos": True}}
    with kjv.client as client:

        def ask(**more: Any) -> Any:  # noqa: ANN401
            prompts = [NAMED, "Blessed are"]
            return client.completions.create(
                model="model", prompt=prompts, **how, **going_on, **more
            )

        everyone = ask(n=6, logprobs=0).choices
        best = ask(n=2, best_of=6)
    means = [(np.mean(one.logprobs.token_logprobs), one.text) for one in everyone]
    expected = [
        text for group in (means[:6], means[6:]) for _, text in sorted(group, reverse=True)[:2]
    ]
    assert [one.text for one in best.choices] == expected
    assert [one.index for one in best.choices] == [0, 1, 2, 3]
    assert all(one.logprobs is None for one in best.choices)
    assert best.usage.completion_tokens == 2 * 6 * 8
