"""The official client against a real server of a real model."""

import asyncio
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from tests.integration.runtime.conftest import CHECKPOINTS
from tests.integration.runtime.servers import Server, token_ids, wait_until

PROMPT = "And God said, Let there be"
VERSES = [PROMPT, "In the beginning", "HAMLET:\nTo be, or not", "Blessed are the", "😀 €"]


def ask(server: Server, prompt: Any, **more: Any) -> Any:  # noqa: ANN401
    with server.client as client:
        answer = client.completions.create(
            model="model", prompt=prompt, **{"max_tokens": 24, "temperature": 0, **more}
        )
        return list(answer) if more.get("stream") else answer


def chat(server: Server, **more: Any) -> Any:  # noqa: ANN401
    messages = [{"role": "user", "content": PROMPT}]
    with server.client as client:
        answer = client.chat.completions.create(
            model="model", **{"messages": messages, "max_tokens": 24, "temperature": 0, **more}
        )
        return list(answer) if more.get("stream") else answer


def streamed(chunks: Any) -> tuple[str, list[str | None], Any]:  # noqa: ANN401
    """Joined text, finish reasons, and the usage of a stream."""
    text, reasons, usage = "", [], None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += (choice.text if hasattr(choice, "text") else choice.delta.content) or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    return text, reasons, usage


SHAPES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 7},
    {"temperature": 1.2, "top_p": 0.9, "seed": 11, "extra_body": {"top_k": 20}},
    {"stop": [",", "the "]},
    {"stop": "\n", "max_tokens": 200},
    {"logprobs": 2},
    {"echo": True},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(shape) or "plain")
def test_a_stream_is_the_whole_answer_in_pieces(kjv: Server, shape: dict[str, Any]) -> None:
    whole = ask(kjv, PROMPT, **shape)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    text, reasons, usage = streamed(ask(kjv, PROMPT, **shape, **options))
    assert text == whole.choices[0].text
    assert reasons == [whole.choices[0].finish_reason]
    assert usage == whole.usage


def test_a_stream_may_tell_what_was_used_so_far(kjv: Server) -> None:
    """As vLLM's `continuous_usage_stats`, which load generators such as guidellm ask for."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = ask(kjv, PROMPT, stream=True, stream_options=options)
    told = [chunk.usage.completion_tokens for chunk in chunks]
    assert told == sorted(told)
    assert 1 <= told[0] < told[-1] == last.usage.completion_tokens
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {last.usage.prompt_tokens}


def test_chat_streams_what_it_answers(kjv: Server) -> None:
    whole = chat(kjv)
    chunks = chat(kjv, stream=True)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert streamed(chunks)[0] == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert whole.id.startswith("chatcmpl-")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24


def test_the_chat_template_writes_the_first_token_once(kjv: Server) -> None:
    written = ask(kjv, "<|begin|>" + PROMPT)
    assert chat(kjv).choices[0].message.content == written.choices[0].text
    assert chat(kjv).usage.prompt_tokens == written.usage.prompt_tokens


async def test_together_is_as_alone(kjv: Server) -> None:
    alone = [ask(kjv, verse, temperature=0.9, seed=3).choices[0].text for verse in VERSES]
    async with kjv.async_client as client:
        together = await asyncio.gather(
            *(
                client.completions.create(
                    model="model", prompt=verse, max_tokens=24, temperature=0.9, seed=3
                )
                for verse in VERSES * 8
            )
        )
    assert [answer.choices[0].text for answer in together] == alone * 8


def test_several_prompts_and_choices_keep_their_places(kjv: Server) -> None:
    going_on = {"extra_body": {"ignore_eos": True}}
    answer = ask(kjv, VERSES[:2], n=3, temperature=1.0, seed=5, **going_on)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert len({choice.text for choice in answer.choices}) == 6
    single = ask(kjv, VERSES[1], temperature=1.0, seed=5, **going_on)
    assert single.choices[0].text == answer.choices[3].text
    alone = [ask(kjv, verse) for verse in VERSES[:2]]
    assert answer.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert answer.usage.completion_tokens == 6 * 24


def test_text_and_token_ids_are_the_same_prompt(kjv: Server) -> None:
    tokenizer = Tokenizer.from_file(str(CHECKPOINTS["tiny-kjv"] / "tokenizer.json"))
    ids = [tokenizer.encode(verse).ids for verse in VERSES]
    by_ids, by_text = ask(kjv, ids), ask(kjv, VERSES)
    assert [one.text for one in by_ids.choices] == [one.text for one in by_text.choices]
    assert ask(kjv, ids[0]).choices[0].text == by_text.choices[0].text


def test_seeds_reproduce_and_their_absence_does_not(kjv: Server) -> None:
    def draw(seed: int | None) -> str:
        return ask(kjv, PROMPT, temperature=1.0, seed=seed).choices[0].text

    assert draw(1) == draw(1)
    assert len({draw(None) for _ in range(4)}) > 1


def test_stop_strings_are_cut_off(kjv: Server) -> None:
    free = ask(kjv, PROMPT, max_tokens=60).choices[0].text
    stop = free[20:26]
    cut = ask(kjv, PROMPT, max_tokens=60, stop=[stop]).choices[0]
    assert (cut.text, cut.finish_reason) == (free[: free.index(stop)], "stop")
    wait_until(kjv.empty, "the rest is not computed")


def test_stop_tokens_end_and_do_not_show(kjv: Server) -> None:
    extra = {"return_token_ids": True}
    free = ask(kjv, PROMPT, extra_body=extra)
    ids = token_ids(free)[0]
    stop = ids[8]
    cut = ask(kjv, PROMPT, extra_body={**extra, "stop_token_ids": [stop]})
    assert token_ids(cut)[0] == ids[: ids.index(stop) + 1]
    assert cut.choices[0].finish_reason == "stop"
    assert free.choices[0].text.startswith(cut.choices[0].text)


def test_ignore_eos_goes_on_to_the_limit(kjv: Server) -> None:
    answer = ask(kjv, PROMPT, max_tokens=900, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 900
    assert answer.choices[0].finish_reason == "length"


def test_completion_logprobs(kjv: Server) -> None:
    logprobs = ask(kjv, PROMPT, logprobs=3, max_tokens=5).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 5
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert len(top) == 3
        assert top[token] == max(top.values()) == logprob <= 0


def test_chat_logprobs(kjv: Server) -> None:
    answer = chat(kjv, logprobs=True, top_logprobs=2, max_tokens=5)
    content = answer.choices[0].logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == (
        answer.choices[0].message.content
    )
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in content)


def test_a_chat_may_fill_the_sequence(kjv: Server) -> None:
    usage = chat(kjv, max_tokens=openai.NOT_GIVEN, extra_body={"ignore_eos": True}).usage
    assert usage.total_tokens == 1024


def test_parts_of_text_are_a_message(kjv: Server) -> None:
    parts = [{"type": "text", "text": "And God said,"}, {"type": "text", "text": "Let"}]
    joined = chat(kjv, messages=[{"role": "user", "content": "And God said,\nLet"}])
    assert chat(kjv, messages=[{"role": "user", "content": parts}]).choices == joined.choices


def test_models_can_be_listed(kjv: Server) -> None:
    with kjv.client as client:
        (card,) = client.models.list().data
        assert client.models.retrieve(card.id).id == "model"
        with pytest.raises(openai.NotFoundError, match="gpt"):
            client.models.retrieve("gpt")


def test_version_and_metrics_name_the_engine(kjv: Server) -> None:
    version = kjv.get("/version").json()
    assert version["engine"].startswith("tiny-kjv-")
    text = kjv.get("/metrics").text
    assert f'engine_id="{version["engineId"]}"' in text
    for name in (
        "pitcrew_requests_waiting",
        "pitcrew_requests_running",
        "pitcrew_kv_cache_usage_ratio",
        "pitcrew_time_to_first_token_seconds_bucket",
        "pitcrew_time_per_output_token_seconds_bucket",
        "pitcrew_request_duration_seconds_bucket",
        "pitcrew_request_queue_seconds_bucket",
        "pitcrew_prompt_tokens_total",
        "pitcrew_generation_tokens_total",
        "pitcrew_preemptions_total",
        "pitcrew_requests_finished_total",
    ):
        assert f"\n{name}" in text, name
