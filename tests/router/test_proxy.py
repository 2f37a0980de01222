"""Chat completions through a router on a real socket, in front of a scripted provider."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from router.upstream import UpstreamRequest
from tests.harness.running_router import openai_provider, running_router
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


async def test_anthropic_s_name_of_an_id_is_known_too(tmp_path: Path) -> None:
    """Its servers have another name for it than OpenAI's."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(b'{"choices":[]}', request_id="req_1")

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat(b'{"model":"auto","messages":[]}')
    assert response.headers["x-upstream-request-id"] == "req_1"
    assert "request-id" not in response.headers


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


@pytest.mark.parametrize("value", ["\u20ac", "a\x01b", "a\x00b"])
async def test_an_odd_header_of_a_provider_is_left_out(tmp_path: Path, value: str) -> None:
    """A value that cannot travel in a header costs the header, not the answer."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(openai_organization=value, x_ratelimit_limit="9")

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.chat(HELLO)
    assert response.content == CHAT or _error(response.content)["code"] == "upstream_protocol_error"
    assert "openai-organization" not in response.headers


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
    request = UpstreamRequest("POST", "http://a/v1", ((b"authorization", b"sk-1"),), b"secret")
    assert "sk-1" not in repr(request)
    assert "secret" not in repr(request)
