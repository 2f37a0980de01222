"""Chat completions through a router on a real socket, in front of a scripted provider."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from router.upstream import UpstreamRequest
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import CHAT, Conversation, ScriptedUpstream

HELLO = {"model": "text", "messages": [{"role": "user", "content": "hello"}]}
STREAMED = {**HELLO, "stream": True}
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def _one(upstream: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    """Return settings that bind text to the scripted provider alone."""
    return {
        "providers": {"fm": openai_provider(upstream.url, **more)},
        "capabilities": {"text": ["fm/model-1"]},
    }


def _error(body: bytes) -> Any:
    return json.loads(body)["error"]


async def test_unknown_fields_pass_both_ways_byte_for_byte(tmp_path: Path) -> None:
    """What neither side knows reaches the other as the very bytes it was."""
    answer = b'{ "choices": [ ], "odd" : [1.50, "\\u00e4\\/"] }'

    async def script(conversation: Conversation) -> None:
        await conversation.answer(answer, x_ratelimit_limit="9", server="secret", x_request_id="u1")

    odd = b'{"deep": {"b":1.50,  "a":[1e2, "\\u00e4\\/"]}}'
    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat(
            b'{"model":"auto", "odd": ' + odd + b', "messages":[]}', x_request_id="me-1"
        )
    assert response.status_code == 200
    assert response.content == answer
    assert fm.seen[0].target == "/v1/chat/completions"
    assert fm.seen[0].body == b'{"model":"model-1","odd":' + odd + b',"messages":[]}'
    told = response.headers
    assert told["x-signalbox-provider"] == "fm"
    assert told["x-signalbox-model"] == "model-1"
    assert told["x-signalbox-capability"] == "text"
    assert told["x-signalbox-reason"] == "auto: needs text"
    assert told["x-signalbox-attempts"] == "1"
    assert float(told["x-signalbox-overhead-ms"]) >= 0
    assert float(told["x-signalbox-queue-ms"]) >= 0
    assert told["x-ratelimit-limit"] == "9"
    assert told["x-upstream-request-id"] == "u1"
    assert "server" not in told


async def test_nothing_of_the_clients_headers_reaches_a_provider(tmp_path: Path) -> None:
    """Credentials, cookies and fingerprints stay; the provider's own key and headers go."""
    settings = _one
    async with (
        ScriptedUpstream() as fm,
        running_router(
            tmp_path,
            environ={"FM_KEY": "sk-provider"},
            **settings(fm, api_key={"env": "FM_KEY"}, headers={"x-team": "a"}, locality="remote"),
        ) as signalbox,
    ):
        await signalbox.chat(
            HELLO,
            authorization="Bearer sk-caller",
            cookie="a=b",
            **{"x-stainless-os": "MacOS", "traceparent": "00-1-1-01", "x-forwarded-for": "1.2.3.4"},
        )
    assert fm.seen[0].headers == {
        "host": f"127.0.0.1:{fm.port}",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": "Bearer sk-provider",
        "x-team": "a",
        "content-length": str(len(fm.seen[0].body)),
    }


async def test_the_first_event_is_with_the_client_before_the_second_is_sent(
    tmp_path: Path,
) -> None:
    """Nothing between provider and client holds an event back."""
    acknowledged = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA)
        await acknowledged.wait()
        await conversation.event(STOP + DONE)
        await conversation.end_stream()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post("/v1/chat/completions", STREAMED)
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert await client.chunk() == DELTA
        acknowledged.set()
        assert await client.body(headers) == STOP + DONE


async def test_events_cut_anywhere_arrive_whole_and_unchanged(tmp_path: Path) -> None:
    """A provider that dribbles single bytes gives the client the same events."""
    transcript = b": hi\n\n" + DELTA + STOP.replace(b"\n\n", b"\r\n\r\n") + DONE

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for position in range(len(transcript)):
            await conversation.event(transcript[position : position + 1])
        await conversation.end_stream()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post("/v1/chat/completions", STREAMED)
        _, headers = await client.head()
        assert await client.body(headers) == transcript


async def _broken(signalbox: RunningRouter) -> list[bytes]:
    async with RawClient(signalbox.port) as client:
        await client.post("/v1/chat/completions", STREAMED)
        status, headers = await client.head()
        assert status == 200
        body = await client.body(headers)
    return [event for event in body.split(b"\n\n") if event]


@pytest.mark.parametrize("how", ["end", "reset", "cut"])
async def test_a_stream_that_breaks_off_ends_in_an_error_frame(tmp_path: Path, how: str) -> None:
    """A clean end without finish_reason, a reset, and half an event are all told as truncated."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA)
        if how == "cut":
            await conversation.event(STOP[:20])
            conversation.close()
        elif how == "end":
            await conversation.end_stream()
        else:
            await seen.wait()
            conversation.reset()

    seen = asyncio.Event()
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post("/v1/chat/completions", STREAMED)
        _, headers = await client.head()
        first = await client.chunk()
        seen.set()
        body = first + await client.body(headers)
    events = [event for event in body.split(b"\n\n") if event]
    assert events[0] + b"\n\n" == DELTA
    assert _error(events[1].removeprefix(b"data: "))["code"] == "upstream_truncated"
    assert len(events) == 2
    assert len(fm.seen) == 1


async def test_a_stream_that_stalls_ends_in_an_error_frame_and_pings_do_not_help(
    tmp_path: Path,
) -> None:
    """Only events with data keep a stream alive."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA)
        while True:
            await conversation.event(b": ping\n\n")
            await asyncio.sleep(0.02)

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, timeouts={"idle_s": 0.2}, **_one(fm)) as signalbox,
    ):
        events = await _broken(signalbox)
    assert b": ping" in events
    assert _error(events[-1].removeprefix(b"data: "))["code"] == "upstream_idle_timeout"


@pytest.mark.parametrize("burst", [1, 5000])
async def test_a_stream_that_never_ends_is_ended(tmp_path: Path, burst: int) -> None:
    """Events that keep coming, slowly or in floods, do not outlive the total deadline."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        while True:
            await conversation.event(DELTA * burst)
            await asyncio.sleep(0.005)

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, timeouts={"total_s": 0.2}, **_one(fm)) as signalbox,
    ):
        body = (await signalbox.chat(STREAMED)).content
    assert _error(body[body.rindex(b"data: ") + 6 :])["code"] == "upstream_total_timeout"
    assert b"[DONE]" not in body


async def test_an_event_that_is_not_json_ends_the_stream(tmp_path: Path) -> None:
    """What came before the bad event is the client's; the bad event is not."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA)
        await conversation.event(DELTA + b"data: {oops\n\n")
        await conversation.left()

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        events = await _broken(signalbox)
    assert events[:2] == [DELTA.strip(), DELTA.strip()]
    assert _error(events[2].removeprefix(b"data: "))["code"] == "upstream_invalid_frame"
    assert len(events) == 3


async def test_a_flood_of_comments_is_no_answer(tmp_path: Path) -> None:
    """What is held until the first event is bounded; the flood ends as a bad gateway."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        while True:
            await conversation.event(b": " + b"x" * 65536 + b"\n\n")

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat(STREAMED)
    error = _error(response.content)
    assert (response.status_code, error["code"]) == (502, "upstream_invalid_response")
    assert "comments" in error["message"]


async def test_the_providers_own_error_event_passes_once_and_ends_the_stream(
    tmp_path: Path,
) -> None:
    """An error event is forwarded, and nothing after it."""
    error = b'data: {"error":{"message":"out of memory"}}\n\n'

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA)
        await conversation.event(error + DONE)
        await conversation.end_stream()

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        events = await _broken(signalbox)
    assert events == [DELTA.strip(), error.strip()]


async def test_a_full_queue_and_a_long_wait_are_refused_with_retry_after(tmp_path: Path) -> None:
    """Over the queue's bound 429, over its deadline 503, both before anything is sent."""
    free = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await free.wait()
        await conversation.answer()

    lanes = {"fm": {"concurrency": 1, "queue": 1, "reserve_high": 0}}
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, lanes=lanes, timeouts={"queue_s": 0.2}, **_one(fm)) as signalbox,
    ):
        lane = signalbox.router.reaches["fm"].admission.lane  # type: ignore[union-attr]
        first = asyncio.create_task(signalbox.chat(HELLO))
        async with asyncio.timeout(1):
            while not lane.running:
                await asyncio.sleep(0.001)
        second = asyncio.create_task(signalbox.chat(HELLO))
        async with asyncio.timeout(1):
            while not lane.waiting:
                await asyncio.sleep(0.001)
        refused = await signalbox.chat(STREAMED)
        timed_out = await second
        free.set()
        assert (await first).status_code == 200
    assert (refused.status_code, _error(refused.content)["code"]) == (429, "queue_full")
    assert (timed_out.status_code, _error(timed_out.content)["code"]) == (503, "queue_timeout")
    assert refused.headers["retry-after"] == timed_out.headers["retry-after"] == "1"
    assert len(fm.seen) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (200, b"<html>", "text/html", "upstream_invalid_response"),
        (200, b"{oops", "application/json", "upstream_invalid_response"),
        (200, DELTA, "text/event-stream", "upstream_invalid_response"),
        (302, b"", "text/plain", "upstream_invalid_response"),
        (
            401,
            b'{"error":{"message":"bad key sk-secret"}}',
            "application/json",
            "provider_auth_error",
        ),
        (403, b"no", "text/plain", "provider_auth_error"),
        (500, b"<html>", "text/html", "upstream_invalid_response"),
    ],
)
async def test_a_provider_that_misbehaves_is_a_bad_gateway(
    tmp_path: Path, status: int, body: bytes, kind: str, code: str
) -> None:
    """Nothing that is not the protocol reaches the client, and no word of a provider's refusal."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(body, status, kind, location="http://127.0.0.1:9/")

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat(HELLO)
    assert (response.status_code, _error(response.content)["code"]) == (502, code)
    assert response.headers["x-signalbox-error"] == "1"
    assert b"sk-secret" not in response.content
    assert fm.connections == 1


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_a_providers_own_error_passes_untouched(tmp_path: Path, status: int) -> None:
    """Errors in OpenAI's shape keep status, bytes and Retry-After, whatever type they claim."""
    body = b'{ "error" : {"message":"no","odd":1} }'

    async def script(conversation: Conversation) -> None:
        await conversation.answer(body, status, "text/html", retry_after="7")

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat(HELLO)
    assert (response.status_code, response.content) == (status, body)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "7"
    assert "x-signalbox-error" not in response.headers


@pytest.mark.parametrize("value", ["\u20ac", "a\x01b", "a\x00b"])
async def test_an_odd_header_of_a_provider_is_left_out(tmp_path: Path, value: str) -> None:
    """A value that cannot travel in a header costs the header, not the answer."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(openai_organization=value, x_ratelimit_limit="9")

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat(HELLO)
    assert response.content == CHAT or _error(response.content)["code"] == "upstream_protocol_error"
    assert "openai-organization" not in response.headers


async def test_a_stream_without_a_single_chunk_is_no_answer(tmp_path: Path) -> None:
    """`[DONE]` alone would look like a model that had nothing to say."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DONE)
        await conversation.end_stream()

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat(STREAMED)
    assert (response.status_code, _error(response.content)["code"]) == (
        502,
        "upstream_invalid_response",
    )


async def test_an_answer_over_the_limit_is_not_buffered_further(tmp_path: Path) -> None:
    """An endless non-streamed answer is cut at limits.response_mb."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(b'{"a":"' + b"x" * (1 << 20) + b'"}')

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, limits={"response_mb": 1}, **_one(fm)) as signalbox,
    ):
        response = await signalbox.chat(HELLO)
    assert _error(response.content)["code"] == "upstream_response_too_large"


async def test_a_provider_that_does_not_answer_in_time_is_a_gateway_timeout(
    tmp_path: Path,
) -> None:
    """The first-byte deadline ends the wait, and the request is not sent a second time."""

    async def script(conversation: Conversation) -> None:
        await conversation.left()

    async with (
        ScriptedUpstream(script) as fm,
        ScriptedUpstream() as other,
        running_router(
            tmp_path,
            providers={"fm": openai_provider(fm.url), "other": openai_provider(other.url)},
            capabilities={"text": ["fm/m", "other/m"]},
            timeouts={"first_byte_s": 0.2},
        ) as signalbox,
    ):
        response = await signalbox.chat(HELLO)
    assert (response.status_code, _error(response.content)["code"]) == (504, "upstream_timeout")
    assert (len(fm.seen), len(other.seen)) == (1, 0)


@pytest.mark.parametrize("trouble", ["down", "500", "html", "error first"])
async def test_a_failure_before_the_first_byte_is_answered_by_the_next_route(
    tmp_path: Path, trouble: str
) -> None:
    """A provider that is down, fails, or says nonsense is passed over, and the headers tell."""

    async def script(conversation: Conversation) -> None:
        if trouble == "500":
            await conversation.answer(b'{"error":{"message":"no"}}', 500)
        elif trouble == "html":
            await conversation.answer(b"<html>", 200, "text/html")
        else:
            await conversation.begin_stream()
            await conversation.event(b'data: {"error":{"message":"no"}}\n\n')
            await conversation.end_stream()

    async def fine(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA + STOP + DONE)
        await conversation.end_stream()

    async with ScriptedUpstream(script) as fm, ScriptedUpstream() as other:
        address = "http://127.0.0.1:9/v1" if trouble == "down" else fm.url
        stream = trouble == "error first"
        if stream:
            other.script = fine
        async with running_router(
            tmp_path,
            providers={"fm": openai_provider(address), "other": openai_provider(other.url)},
            capabilities={"text": ["fm/m", "other/m2"]},
        ) as signalbox:
            response = await signalbox.chat(STREAMED if stream else HELLO)
    assert response.status_code == 200
    assert response.content == (DELTA + STOP + DONE if stream else CHAT)
    assert response.headers["x-signalbox-provider"] == "other"
    assert response.headers["x-signalbox-attempts"] == "2"


async def test_a_provider_that_is_down_is_unreachable_and_the_next_request_works(
    tmp_path: Path,
) -> None:
    """A closed port is a 502 that says so; the router goes on."""
    async with (
        ScriptedUpstream() as fm,
        running_router(
            tmp_path,
            providers={
                "down": openai_provider("http://127.0.0.1:9/v1"),
                "fm": openai_provider(fm.url),
            },
        ) as signalbox,
    ):
        response = await signalbox.chat({**HELLO, "model": "down/m"})
        assert (response.status_code, _error(response.content)["code"]) == (
            502,
            "upstream_unreachable",
        )
        assert "running" in _error(response.content)["message"]
        assert (await signalbox.chat({**HELLO, "model": "fm/m"})).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("?priority=urgent", {}, 400, "invalid_priority"),
        ("?priority=0", {}, 403, "priority_not_allowed"),
        ("", {"x-priority": "system"}, 403, "priority_not_allowed"),
        ("?priority=1", {"x-priority": "nonsense"}, 200, None),
        ("", {"x-priority": "LOW"}, 200, None),
    ],
)
async def test_priorities_are_checked_and_never_forwarded(
    tmp_path: Path, path: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    """Unknown ones are refused, SYSTEM needs the admin key, and the provider sees none."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.client.post(
            f"/v1/chat/completions{path}", json=HELLO, headers=headers
        )
    assert response.status_code == status
    if code is None:
        assert fm.seen[0].target == "/v1/chat/completions"
        assert "x-priority" not in fm.seen[0].headers
    else:
        assert _error(response.content)["code"] == code
        assert fm.seen == []


async def test_a_model_name_cannot_break_a_header(tmp_path: Path) -> None:
    """Control characters in a model's name are refused before they reach a header or a log."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat({**HELLO, "model": "fm/a\r\nx-evil: 1"})
        umlaut = await signalbox.chat({**HELLO, "model": "fm/modèle"})
    assert (response.status_code, _error(response.content)["code"]) == (400, "invalid_request")
    assert umlaut.status_code == 200
    assert umlaut.headers["x-signalbox-model"] == "mod?le"


def test_what_is_sent_is_in_no_repr() -> None:
    """A key and a prompt cannot end in a log by way of a traceback."""
    request = UpstreamRequest("POST", "http://a/v1", [(b"authorization", b"sk-1")], b"secret")
    assert "sk-1" not in repr(request)
    assert "secret" not in repr(request)
