"""Responses and messages at providers that know chat completions only, through a real router."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from router.endpoints import ENDPOINTS
from tests.harness.asking import Told, assert_error
from tests.harness.authority import Authority
from tests.harness.endpoints import REQUESTS, ask_endpoint, bound_to
from tests.harness.one_provider import DELTA, DONE, STOP, scripted, streams
from tests.harness.raw_client import RawClient
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
BOTH = (RESPONSES, MESSAGES)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TOLD_USAGE = b"data: %b\n\n" % json.dumps({"choices": [], "usage": USAGE}).encode()
ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "model": "m-2026",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "xx"}}
    ],
    "usage": USAGE,
}


async def _answer(conversation: Conversation) -> None:
    await conversation.answer(json.dumps(ANSWER).encode())


def _text_of(path: str, told: Any) -> str:
    content = told["output"][0]["content"] if path == RESPONSES else told["content"]
    return str(content[0]["text"])


async def _told(folder: Path, path: str, script: Script, **fields: Any) -> tuple[Told, Any]:
    """Ask a router whose one provider knows chat; return the answer and what the provider saw."""
    async with (
        ScriptedUpstream(script) as fm,
        running_router(folder, **bound_to(fm, dialects=["chat"])) as signalbox,
    ):
        told = await ask_endpoint(signalbox.port, path, "anthropic-version: 2023-06-01", **fields)
    return told, fm.seen[0] if fm.seen else None


@pytest.mark.parametrize("path", BOTH)
async def test_a_request_is_asked_as_a_chat_and_answered_in_its_own_words(
    tmp_path: Path, path: str
) -> None:
    """The headers say so; nothing of the other protocol reaches the provider."""
    told, seen = await _told(tmp_path, path, _answer)
    assert (told.status, _text_of(path, told.content)) == (200, "xx")
    assert told.headers["x-signalbox-shims"] == f"{ENDPOINTS[path].dialect}_to_chat"
    usage = told.content["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (3, 2)
    assert seen.target == "/v1/chat/completions"
    assert seen.json["messages"] == [{"role": "user", "content": "hello"}]
    assert seen.json["model"] == "m"
    assert "anthropic-version" not in seen.headers
    assert seen.headers["accept"] == "application/json"


async def test_tokens_are_counted_by_who_has_the_tokenizer(tmp_path: Path) -> None:
    """By a chat of one token; one that does not count them has no answer."""
    told, seen = await _told(tmp_path, COUNT, _answer)
    assert told.content == {"input_tokens": 3}
    assert seen.json["max_tokens"] == 1
    uncounted = {key: value for key, value in ANSWER.items() if key != "usage"}

    async def silent(conversation: Conversation) -> None:
        await conversation.answer(json.dumps(uncounted).encode())

    told, _ = await _told(tmp_path, COUNT, silent)
    assert (told.status, told.code) == (502, "upstream_invalid_response")
    assert "not guessed" in told.content["error"]["message"]


# Streams


async def _streamed(folder: Path, path: str, *pieces: bytes, tls: Authority | None = None) -> bytes:
    """Return the stream that a chat's stream of these pieces becomes."""
    trust = {"ca_file": str(tls.file)} if tls else {}
    async with (
        scripted(tls, streams(*pieces)) as fm,
        running_router(folder, **bound_to(fm, dialects=["chat"], **trust)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post(path, {**REQUESTS[path], "stream": True}, connection="close")
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert headers["x-signalbox-shims"] == f"{ENDPOINTS[path].dialect}_to_chat,usage"
        assert fm.seen[0].json["stream_options"] == {"include_usage": True}
        return await client.rest()


def _events(body: bytes) -> list[dict[str, Any]]:
    found = []
    for event in body.decode().split("\n\n")[:-1]:
        *_, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
    return found


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    "pieces",
    [
        (DELTA, DELTA, STOP, TOLD_USAGE, DONE),
        (DELTA + DELTA + STOP + TOLD_USAGE + DONE,),
        # Cut anywhere, with comments, and without an end but the body's.
        (DELTA[:9], DELTA[9:] + b": still here\n\n" + DELTA, STOP, TOLD_USAGE),
    ],
)
async def test_a_stream_is_told_in_the_clients_words(
    tmp_path: Path, tls: Authority | None, path: str, pieces: tuple[bytes, ...]
) -> None:
    """From its beginning to its end, with the tokens, and never with `[DONE]`."""
    body = await _streamed(tmp_path, path, *pieces, tls=tls)
    assert b"[DONE]" not in body
    events = _events(body.replace(b": still here\n\n", b""))
    if path == RESPONSES:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["type"] == "response.completed"
        assert _text_of(path, events[-1]["response"]) == "xx"
        assert events[-1]["response"]["usage"]["output_tokens"] == 2
    else:
        assert events[0]["type"] == "message_start"
        texts = [each["delta"]["text"] for each in events if each["type"] == "content_block_delta"]
        assert "".join(texts) == "xx"
        assert events[-2]["usage"]["output_tokens"] == 2
        assert events[-1]["type"] == "message_stop"


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    ("broken", "code", "words"),
    [
        ((), "upstream_truncated", ""),
        ((b"data: no json\n\n",), "upstream_invalid_frame", "not JSON"),
        ((b'data: {"error":{"message":"out of memory"}}\n\n',), "upstream_invalid_frame", "memory"),
        ((b'data: {"choices":[{"index":0,"delta":{"tool_calls":7}}]}\n\n',), None, ""),
    ],
)
async def test_a_stream_that_breaks_ends_in_an_error_of_its_protocol(
    tmp_path: Path, path: str, broken: tuple[bytes, ...], code: str | None, words: str
) -> None:
    """The client's SDK raises it, and nothing says that the answer is whole."""
    events = _events(await _streamed(tmp_path, path, DELTA, DELTA, *broken))
    last = events[-1]
    assert last["type"] == "error"
    assert last["error"]["code"] == (code or "upstream_invalid_frame")
    assert words in last["error"]["message"]
    assert not {"response.completed", "message_stop"} & {event["type"] for event in events}
    if path == RESPONSES:
        assert last["sequence_number"] == len(events) - 1


async def test_what_others_said_is_in_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a provider's error, which may repeat the prompt or a key, nor a refused word."""
    caplog.set_level(logging.DEBUG, "router")
    broken = b'data: {"error":{"message":"no memory for CANARY"}}\n\n'
    for path in BOTH:
        events = _events(await _streamed(tmp_path, path, DELTA, DELTA, broken))
        assert "CANARY" in events[-1]["error"]["message"]
    given = [{"type": "CANARY\nERROR router: all is lost"}]
    told, seen = await _told(tmp_path, RESPONSES, _answer, input=given)
    assert_error(told, 400, "unsupported_parameter")
    assert "CANARY" in told.content["error"]["message"]
    assert seen is None
    lines = [record.getMessage() for record in caplog.records]
    assert any("its words are for no log (unsupported_parameter)" in line for line in lines)
    assert not any("CANARY" in line for line in lines)


async def test_an_error_of_another_type_is_one_of_the_clients_protocol(tmp_path: Path) -> None:
    """Whatever a provider calls it beside its error: a client knows an error by its type."""

    async def refuses(conversation: Conversation) -> None:
        error = {"message": "too cold", "type": "invalid_request_error"}
        await conversation.answer(json.dumps({"type": "odd", "error": error}).encode(), 400)

    told, _ = await _told(tmp_path, MESSAGES, refuses)
    assert (told.status, told.content["type"]) == (400, "error")
    assert told.content["error"]["message"] == "too cold"


@pytest.mark.parametrize("path", BOTH)
async def test_events_reach_the_client_as_they_come(tmp_path: Path, path: str) -> None:
    """The provider goes on only once the client has what came before."""
    seen = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA)
        await seen.wait()
        await conversation.event(STOP + DONE)
        await conversation.end_stream()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **bound_to(fm, dialects=["chat"])) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post(path, {**REQUESTS[path], "stream": True}, connection="close")
        await client.head()
        assert b'"x"' in await client.chunk()
        seen.set()
        await client.rest()


# What goes wrong


async def test_a_provider_that_has_the_dialect_gets_what_no_chat_can_say(tmp_path: Path) -> None:
    """It is not an attempt to have passed over one that could not be asked."""
    async with ScriptedUpstream(_answer) as fm:
        settings = bound_to(fm)
        settings["providers"]["plain"] = openai_provider(fm.url)
        settings["capabilities"]["text"] = ["plain/p", "fm/m"]
        async with running_router(tmp_path, **settings) as signalbox:
            told = await ask_endpoint(signalbox.port, RESPONSES, previous_response_id="resp_1")
            assert told.headers["x-signalbox-provider"] == "fm"
            assert told.headers["x-signalbox-attempts"] == "1"
            assert "x-signalbox-shims" not in told.headers
            told = await ask_endpoint(
                signalbox.port, RESPONSES, model="plain/p", previous_response_id="resp_1"
            )
            assert_error(told, 400, "unsupported_parameter")
            assert told.content["error"]["param"] == "previous_response_id"
            fields = {"input": "hello", "previous_response_id": "resp_1", "model": "plain/p"}
            explained = await signalbox.client.post(
                "/admin/explain", json={"path": RESPONSES, "body": fields}
            )
    assert explained.json()["error"]["code"] == "unsupported_parameter"
    assert len(fm.seen) == 1


@pytest.mark.parametrize("path", [*BOTH, COUNT])
async def test_what_is_no_chat_completion_is_a_failed_route(tmp_path: Path, path: str) -> None:
    """Before its first byte, so that another may still answer."""

    async def odd(conversation: Conversation) -> None:
        await conversation.answer(b'{"object":"list","data":[]}')

    told, _ = await _told(tmp_path, path, odd)
    assert (told.status, told.code) == (502, "upstream_invalid_response")


@pytest.mark.parametrize("path", [*BOTH, COUNT])
@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_providers_error_keeps_its_words(tmp_path: Path, path: str, status: int) -> None:
    """In the shape that the client's SDK reads."""

    async def fail(conversation: Conversation) -> None:
        body = {"error": {"message": "too hot", "type": "odd", "code": "hot"}}
        await conversation.answer(json.dumps(body).encode(), status=status)

    told, _ = await _told(tmp_path, path, fail)
    assert (told.status, told.content["error"]["message"]) == (status, "too hot")
    assert told.content.get("type") == ("error" if path != RESPONSES else None)


@pytest.mark.parametrize(("path", "field"), [(RESPONSES, "input"), (MESSAGES, "messages")])
async def test_what_is_no_request_of_its_protocol_is_refused(
    tmp_path: Path, path: str, field: str
) -> None:
    """By name, and before anybody is asked."""
    told, seen = await _told(tmp_path, path, _answer, **{field: 7})
    assert (told.status, told.code) == (400, "invalid_request")
    assert told.content["error"]["param"] == field
    assert seen is None
