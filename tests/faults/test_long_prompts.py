"""Prompts that are too long for a model: said, led on to where they fit, never cut in silence."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.endpoints import ALL_DIALECTS
from tests.harness.one_provider import HELLO, STREAMED, last_error, streams, two_providers
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import CHAT, Conversation, Script, ScriptedUpstream, hello

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


WINDOW = 128
PS = json.dumps({"models": [{"model": "m:latest", "context_length": WINDOW}]}).encode()


def counted(tokens: int) -> bytes:
    """Return an answer to a prompt of which so many tokens were read."""
    usage = {"prompt_tokens": tokens, "completion_tokens": 1}
    return json.dumps({**json.loads(CHAT), "usage": usage}).encode()


def stream_of(tokens: int, delta: dict[str, Any] | None = None) -> tuple[bytes, ...]:
    """Return the same as a stream that tells them before its end."""
    told = {"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}
    chunks = [
        {"choices": [{"index": 0, "delta": delta or {"content": "x"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        told,
    ]
    return *(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks), b"data: [DONE]\n\n"


def ollama(answer: Script, ps: Script = lambda conversation: conversation.answer(PS)) -> Script:
    """Return the script of an Ollama: its answers, and what it says of its windows."""

    async def script(conversation: Conversation) -> None:
        asked_for_windows = conversation.target == "/api/ps"
        await (ps if asked_for_windows else answer)(conversation)

    return script


def says(body: bytes) -> Script:
    """Return the script of a provider that answers so."""
    return lambda conversation: conversation.answer(body)


@asynccontextmanager
async def before_ollama(
    folder: Path, script: Script, other: Script = hello, *, alone: bool = False
) -> AsyncIterator[tuple[ScriptedUpstream, ScriptedUpstream, RunningRouter]]:
    """Run a router before an Ollama, and before another provider unless it is alone."""
    async with ScriptedUpstream(script) as fm, ScriptedUpstream(other) as next_fm:
        url = fm.url.removesuffix("/v1")
        async with running_router(
            folder,
            providers={
                "ollama": {"kind": "ollama", "base_url": url},
                "other": openai_provider(next_fm.url),
            },
            capabilities={
                "text": ["ollama/m"] if alone else ["ollama/m", "other/o"],
                "tool_use": ["ollama/m"],
            },
        ) as signalbox:
            yield fm, next_fm, signalbox


def targets(fm: ScriptedUpstream) -> list[str]:
    """Return what was asked of requests and windows, in order, but for lists of models."""
    return [each.target for each in fm.seen if each.target != "/api/tags"]


async def test_the_first_cut_answer_is_seen_and_the_next_provider_answers(tmp_path: Path) -> None:
    """The window is asked for before the answer passes; a prompt that fills it was cut to it."""
    async with before_ollama(tmp_path, ollama(says(counted(WINDOW)))) as (fm, other, signalbox):
        told = await signalbox.chat(HELLO)
        assert told.headers["x-signalbox-provider"] == "other"
        assert told.headers["x-signalbox-attempts"] == "2"
        assert targets(fm) == ["/v1/chat/completions", "/api/ps"]
        assert len(other.seen) == 1
        assert repr(signalbox.router.reaches["ollama"].breaker).count("closed failures=0")


@pytest.mark.parametrize("tokens", [WINDOW, 20])
async def test_without_another_the_client_is_told_how_to_raise_the_window(
    tmp_path: Path, tokens: int
) -> None:
    """400, whether it fills the window or is far less than the messages hold."""
    long = {**HELLO, "messages": [{"role": "user", "content": "word " * 60}]}
    async with before_ollama(tmp_path, ollama(says(counted(tokens))), alone=True) as (
        _,
        _,
        signalbox,
    ):
        told = await signalbox.chat(long)
        assert told.status_code == 400
        error = told.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "OLLAMA_CONTEXT_LENGTH" in error["message"]
        assert "num_ctx" in error["message"]
        assert f"to {tokens} without" in error["message"]


async def test_a_prompt_that_fits_passes_and_says_that_this_was_checked(tmp_path: Path) -> None:
    """One token below the window; the window is asked for once."""
    answer = counted(WINDOW - 1)
    async with before_ollama(tmp_path, ollama(says(answer))) as (fm, other, signalbox):
        for _ in range(3):
            told = await signalbox.chat(HELLO)
            assert (told.status_code, told.content) == (200, answer)
            assert told.headers["x-signalbox-shims"] == "context"
        assert targets(fm).count("/api/ps") == 1
        assert other.seen == []


@pytest.mark.parametrize("delta", [None, {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}])
async def test_a_stream_that_was_cut_ends_in_an_error(
    tmp_path: Path, delta: dict[str, Any] | None
) -> None:
    """The tokens are asked for, and an error stands where the end would; tools are no exception."""
    script = ollama(streams(*stream_of(WINDOW, delta)))
    body = {**STREAMED, "tools": [{"type": "function"}], "model": "auto"} if delta else STREAMED
    async with before_ollama(tmp_path, script) as (fm, other, signalbox):
        told = await signalbox.chat(body)
        assert told.headers["x-signalbox-shims"] == "usage,context"
        sent = next(each for each in fm.seen if each.target == "/v1/chat/completions")
        assert sent.json["stream_options"] == {"include_usage": True}
        assert last_error(told.content)["code"] == "context_length_exceeded"
        assert b"[DONE]" not in told.content
        assert b'"usage"' not in told.content
        assert other.seen == []


@pytest.mark.parametrize("asks", [False, True])
async def test_a_stream_that_was_not_cut_is_as_the_client_asked_for_it(
    tmp_path: Path, *, asks: bool
) -> None:
    """The tokens are withheld where it did not ask for them, and pass where it did."""
    events = stream_of(WINDOW - 1)
    body = {**STREAMED, **({"stream_options": {"include_usage": True}} if asks else {})}
    async with before_ollama(tmp_path, ollama(streams(*events))) as (_, _, signalbox):
        told = await signalbox.chat(body)
        kept = events if asks else (*events[:-2], events[-1])
        assert told.content == b"".join(kept)
        assert told.headers["x-signalbox-shims"] == ("context" if asks else "usage,context")


async def test_a_stream_that_tells_its_tokens_first_is_still_a_fallback(tmp_path: Path) -> None:
    """What is known to be cut before anything has gone out goes to the next provider."""
    first = json.dumps({"choices": [], "usage": {"prompt_tokens": WINDOW}}).encode()
    script = ollama(streams(b"data: %b\n\n" % first, b"data: [DONE]\n\n"))
    async with before_ollama(tmp_path, script, streams(*stream_of(1))) as (_, _, signalbox):
        told = await signalbox.chat(STREAMED)
        assert told.headers["x-signalbox-provider"] == "other"


async def hang(conversation: Conversation) -> None:
    """Say nothing until the router leaves."""
    await conversation.left()


@pytest.mark.parametrize("ps", [hang, says(b'{"models": []}'), refuses({"message": "x"}, 404)])
@pytest.mark.parametrize("stream", [False, True])
async def test_where_no_window_is_told_the_answer_passes(
    tmp_path: Path, ps: Script, *, stream: bool
) -> None:
    """It cannot be known to be cut, and a question without an answer is no error."""
    answer = streams(*stream_of(WINDOW)) if stream else says(counted(WINDOW))
    async with before_ollama(tmp_path, ollama(answer, ps)) as (_, other, signalbox):
        windows = signalbox.router.reaches["ollama"].windows
        assert windows is not None
        windows._within_s = 0.05
        told = await signalbox.chat(STREAMED if stream else HELLO)
        assert told.status_code == 200
        assert "context" not in told.headers.get("x-signalbox-shims", "")
        assert b"error" not in told.content
        assert other.seen == []


async def test_a_window_that_is_known_counts_before_the_prompt_is_sent(tmp_path: Path) -> None:
    """What cannot fit is not asked any more, by the window of this moment."""
    long = {**HELLO, "messages": [{"role": "user", "content": "word " * 250}]}
    async with before_ollama(tmp_path, ollama(says(counted(1)))) as (fm, other, signalbox):
        assert (await signalbox.chat(HELLO)).headers["x-signalbox-provider"] == "ollama"
        told = await signalbox.chat(long)
        assert told.headers["x-signalbox-provider"] == "other"
        assert told.headers["x-signalbox-attempts"] == "1"
        assert targets(fm) == ["/v1/chat/completions", "/api/ps", "/api/ps"]
        answer = await signalbox.client.post("/admin/explain", json={"body": long})
        assert "128 tokens" in answer.json()["candidates"][0]["why"]
        # Its owner raises the window: what was remembered refuses nothing.
        larger = json.dumps({"models": [{"model": "m", "context_length": 4096}]}).encode()
        fm.script = ollama(says(counted(300)), says(larger))
        assert (await signalbox.chat(long)).headers["x-signalbox-provider"] == "ollama"
        assert len(other.seen) == 1


@pytest.mark.parametrize(
    ("path", "asks"), [("/v1/completions", True), ("/v1/responses", False), ("/v1/messages", False)]
)
async def test_tokens_are_asked_for_where_the_protocol_has_a_way_to_ask(
    tmp_path: Path, path: str, *, asks: bool
) -> None:
    """A stream of choices tells them when asked to, one of typed events by itself."""
    async with ScriptedUpstream(streams(*stream_of(1))) as fm:
        url = fm.url.removesuffix("/v1")
        async with running_router(
            tmp_path,
            providers={"ollama": {"kind": "ollama", "base_url": url, "dialects": ALL_DIALECTS}},
            capabilities={"text": ["ollama/m"]},
        ) as signalbox:
            body = {"model": "text", "prompt": "x", "input": "x", "messages": [], "stream": True}
            await signalbox.client.post(path, json=body)
        (sent,) = (each for each in fm.seen if each.target == path)
        assert ("stream_options" in sent.json) is asks


def _typed(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def message_of(tokens: int) -> tuple[bytes, ...]:
    """Return a message as Ollama streams it: it begins with an estimate, and ends with a count."""
    usage = {"input_tokens": tokens, "output_tokens": 1}
    begun = {"usage": {"input_tokens": 9 * WINDOW, "output_tokens": 0}}
    return (
        _typed("message_start", message=begun),
        _typed("message_delta", usage=usage),
        _typed("message_stop"),
    )


def response_of(tokens: int) -> tuple[bytes, ...]:
    """Return a response as it is streamed, with its tokens in the last event."""
    usage = {"input_tokens": tokens, "output_tokens": 1}
    return (
        _typed("response.created", response={"usage": None}),
        _typed("response.completed", response={"usage": usage}),
    )


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("tokens", [WINDOW - 1, WINDOW])
async def test_a_stream_of_another_protocol_is_checked_too(
    tmp_path: Path, path: str, tokens: int
) -> None:
    """By the count at its end and not by the estimate that it begins with."""
    events = (message_of if path == "/v1/messages" else response_of)(tokens)
    async with ScriptedUpstream(ollama(streams(*events))) as fm:
        told = {"kind": "ollama", "base_url": fm.url.removesuffix("/v1"), "dialects": ALL_DIALECTS}
        settings: dict[str, Any] = {"providers": {"o": told}, "capabilities": {"text": ["o/m"]}}
        async with running_router(tmp_path, **settings) as signalbox:
            body = {"model": "text", "input": "x", "messages": [], "stream": True}
            answer = await signalbox.client.post(path, json=body)
            (sent,) = (await signalbox.client.get("/admin/egress")).json()["data"]
    assert answer.headers["x-signalbox-shims"] == "context"
    assert (sent["prompt_tokens"], sent["untold"]) == (tokens, 0)
    if tokens < WINDOW:
        assert answer.content == b"".join(events)
    else:
        assert answer.content.startswith(events[0] + b"event: error\n")
        assert last_error(answer.content)["code"] == "context_length_exceeded"
