"""Prompts that are too long for a model: said, led on to where they fit, never cut in silence."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.one_provider import HELLO, STREAMED, streams, two_providers
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import Script, ScriptedUpstream, hello

OPENAI = {
    "message": "This model's maximum context length is 8192 tokens.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}
LLAMA_CPP = {
    "code": 400,
    "message": "request (5031 tokens) exceeds the available context size (2048 tokens)",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 5031,
    "n_ctx": 2048,
}
VLLM = {
    "message": "This model's maximum context length is 2048 tokens.",
    "type": "BadRequestError",
    "param": "input_tokens",
    "code": 400,
}


def refuses(error: dict[str, Any], status: int = 400) -> Script:
    """Return the script of a provider that answers with this error."""
    body = json.dumps({"error": error}).encode()
    return lambda conversation: conversation.answer(body, status=status)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"), [(OPENAI, 400), (LLAMA_CPP, 400), (VLLM, 400), (OPENAI, 413)]
)
async def test_who_has_no_room_for_a_prompt_leads_on_to_the_next(
    tmp_path: Path, error: dict[str, Any], status: int, *, stream: bool
) -> None:
    """Each server's way to say so costs an attempt, and the next provider answers."""
    answer = streams(b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n')
    async with two_providers(
        tmp_path, None, refuses(error, status), answer if stream else hello
    ) as (fm, other, signalbox):
        told = await signalbox.chat(STREAMED if stream else HELLO)
        assert told.status_code == 200, told.text
        assert told.headers["x-signalbox-provider"] == "other"
        assert told.headers["x-signalbox-attempts"] == "2"
        assert (len(fm.seen), len(other.seen)) == (1, 1)


async def test_its_own_words_pass_where_nobody_has_room(tmp_path: Path) -> None:
    """The first one's refusal arrives as it came, whatever the others said."""
    async with two_providers(tmp_path, None, refuses(LLAMA_CPP), refuses(OPENAI, 413)) as (
        _,
        other,
        signalbox,
    ):
        told = await signalbox.chat(HELLO)
        assert (told.status_code, told.json()) == (400, {"error": LLAMA_CPP})
        assert told.headers["x-signalbox-provider"] == "fm"
        assert "x-signalbox-error" not in told.headers
        assert len(other.seen) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "maximum context length", "type": "x", "code": 400}, 400),
        ({"message": "no", "type": "BadRequestError", "param": "max_tokens", "code": 400}, 400),
        ({**OPENAI}, 404),
        ({"message": "no", "code": ["context_length_exceeded"]}, 400),
    ],
)
async def test_any_other_refusal_is_the_callers(
    tmp_path: Path, error: dict[str, Any], status: int
) -> None:
    """Words, another field at fault, another status: it passes, and nobody else is asked."""
    async with two_providers(tmp_path, None, refuses(error, status), hello) as (
        _,
        other,
        signalbox,
    ):
        told = await signalbox.chat(HELLO)
        assert (told.status_code, told.json()) == (status, {"error": error})
        assert other.seen == []


async def test_a_stream_that_begins_with_it_leads_on_too(tmp_path: Path) -> None:
    """Said in the first event it is as good as said by the status, and so it passes as a 400."""
    event = b"data: " + json.dumps({"error": LLAMA_CPP}).encode() + b"\n\n"
    async with two_providers(tmp_path, None, streams(event), streams(event)) as (
        _,
        other,
        signalbox,
    ):
        told = await signalbox.chat(STREAMED)
        assert (told.status_code, told.json()) == (400, {"error": LLAMA_CPP})
        assert len(other.seen) == 1


async def test_a_prompt_that_is_too_long_is_no_providers_failure(tmp_path: Path) -> None:
    """However many come, nobody is left alone for it, and the budget for failures stays whole."""
    async with two_providers(tmp_path, None, refuses(OPENAI), hello) as (fm, other, signalbox):
        for _ in range(12):
            assert (await signalbox.chat(HELLO)).headers["x-signalbox-provider"] == "other"
        assert (len(fm.seen), len(other.seen)) == (12, 12)


async def test_the_attempts_of_one_request_are_bounded_all_the_same(tmp_path: Path) -> None:
    """With one further attempt configured, the third provider is not asked."""
    async with (
        ScriptedUpstream(refuses(OPENAI)) as a,
        ScriptedUpstream(refuses(OPENAI)) as b,
        ScriptedUpstream() as c,
        running_router(
            tmp_path,
            providers={f"p{n}": openai_provider(each.url) for n, each in enumerate((a, b, c))},
            capabilities={"text": ["p0/m", "p1/m", "p2/m"]},
        ) as signalbox,
    ):
        assert (await signalbox.chat(HELLO)).status_code == 400
        assert [len(each.seen) for each in (a, b, c)] == [1, 1, 0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_cannot_fit_is_not_sent(tmp_path: Path, *, stream: bool) -> None:
    """The next model with room answers, at no attempt; explain says the same beforehand."""
    ending = streams(b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n')
    long = {**HELLO, "messages": [{"role": "user", "content": "word " * 200}], "stream": stream}
    async with two_providers(
        tmp_path,
        None,
        hello,
        ending if stream else hello,
        models={"fm/model-1": {"context_length": 124}, "other/model-2": {"context_length": 125}},
    ) as (fm, other, signalbox):
        told = await signalbox.chat(long)
        assert told.headers["x-signalbox-provider"] == "other"
        assert told.headers["x-signalbox-attempts"] == "1"
        assert (len(fm.seen), len(other.seen)) == (0, 1)
        answer = await signalbox.client.post("/admin/explain", json={"body": long})
        explained = answer.json()
        assert [route["model"] for route in explained["routes"]] == ["model-2"]
        kept = [(each["model"], each["kept"]) for each in explained["candidates"]]
        assert kept == [("fm/model-1", False), ("other/model-2", True)]
        why = explained["candidates"][0]["why"]
        assert "124 tokens" in why
        assert "125 at the very least" in why


async def test_a_prompt_that_fits_nowhere_is_refused_with_both_numbers(tmp_path: Path) -> None:
    """400 without anybody asked, in the words that explain has for it."""
    long = {**HELLO, "messages": [{"role": "user", "content": "word " * 200}]}
    async with two_providers(
        tmp_path,
        None,
        hello,
        hello,
        models={"fm/model-1": {"context_length": 100}, "other/model-2": {"context_length": 50}},
    ) as (fm, other, signalbox):
        told = await signalbox.chat(long)
        assert told.status_code == 400
        error = told.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["message"].startswith("fm/model-1 has room for 100 tokens")
        answer = await signalbox.client.post("/admin/explain", json={"body": long})
        explained = answer.json()["error"]
        assert explained == {"code": error["code"], "message": error["message"]}
        assert fm.seen == other.seen == []
