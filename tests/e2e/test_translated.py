"""Clouds of other dialects through a real LiteLLM, played by their published specifications."""

import asyncio
import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.foreign_dialects import (
    SAID,
    anthropic,
    anthropic_error,
    anthropic_events,
    gemini,
)
from tests.harness.real_providers import made
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.served import ROOT
from tests.harness.translating import KEY, STRAY, Translating, ask

pytestmark = pytest.mark.real_provider

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


def chunks(text: str) -> list[Any]:
    """Return the decoded events of a stream that ended as it should."""
    payloads = [line.removeprefix("data: ") for line in text.split("\n") if line]
    assert payloads[-1] == "[DONE]", text
    return [json.loads(payload) for payload in payloads[:-1]]


def said_in(events: list[Any]) -> str:
    """Return the text of all choices of a stream."""
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def failure_of(text: str) -> Any:
    """Return the error in which a stream ended instead of in [DONE]."""
    assert "[DONE]" not in text
    return json.loads(text.strip().rpartition("data: ")[2])["error"]


async def test_a_chat_is_put_into_the_clouds_own_words(translating: Translating) -> None:
    """System text, history, tool results and pictures arrive as Anthropic spells them."""
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    url = f"data:image/png;base64,{PICTURE}"
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
    ]
    async with translating.claude(anthropic) as cloud, translating.client() as client:
        answer = await ask(
            client, "claude/claude-large", messages=messages, tools=TOOLS, max_tokens=9, user=None
        )
    assert answer.status_code == 200
    (seen,) = cloud.seen
    assert (seen.target, seen.headers["x-api-key"], seen.headers["x-team"]) == (
        "/v1/messages",
        KEY,
        "blue",
    )
    assert not {"user-agent", "x-stainless-os", "x-request-id"} & set(seen.headers)
    sent = seen.json
    assert (sent["model"], sent["max_tokens"]) == ("claude-large", 9)
    assert sent["system"][0]["text"] == "be brief"
    assert sent["tools"][0]["input_schema"] == SCHEMA
    assert sent["messages"][1]["content"][0]["type"] == "tool_use"
    result, picture = sent["messages"][2]["content"]
    assert result["type"] == "tool_result"
    assert picture["source"] == {"type": "base64", "media_type": "image/png", "data": PICTURE}


def _pictures_in(sent: Any) -> list[str]:
    """Return the base64 of each picture that a cloud was shown, in order."""
    data = [
        part.get("source", {}).get("data") or (part.get("inline_data") or {}).get("data")
        for turn in sent.get("messages") or sent["contents"]
        for part in turn.get("content") or turn["parts"]
    ]
    return [each for each in data if each]


@pytest.mark.parametrize("model", ["claude/claude-large", "google/flash"])
@pytest.mark.parametrize("stream", [False, True])
async def test_pictures_arrive_as_they_came(
    model: str, stream: bool, translating: Translating
) -> None:
    """Each in its place, a large one and the same one twice."""
    large = base64.b64encode(base64.b64decode(PICTURE) + os.urandom(200_000)).decode()
    pictures = [PICTURE, large, PICTURE]
    urls = [f"data:image/png;base64,{each}" for each in pictures]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    async with (
        translating.claude(anthropic) as claude,
        translating.google(gemini) as google,
        translating.client() as client,
    ):
        messages = [{"role": "user", "content": content}]
        answer = await ask(client, model, messages=messages, stream=stream)
    assert answer.status_code == 200, answer.text
    (seen,) = claude.seen or google.seen
    assert _pictures_in(seen.json) == pictures


# Of Google one that takes a system text, which LiteLLM knows of some models alone.
@pytest.mark.parametrize("model", ["claude/claude-large", "google/gemini-2.5-flash"])
@pytest.mark.parametrize("role", ["system", "assistant"])
async def test_a_picture_that_would_be_left_out_is_told(
    model: str, role: str, translating: Translating
) -> None:
    """LiteLLM drops it in silence where clouds take none; nothing is sent then."""
    url = f"data:image/png;base64,{PICTURE}"
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": role, "content": content}, {"role": "user", "content": "hi"}]
    async with (
        translating.claude(anthropic) as claude,
        translating.google(gemini) as google,
        translating.client() as client,
    ):
        answer = await ask(client, model, messages=messages)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert not claude.seen
    assert not google.seen


@pytest.mark.parametrize("model", ["claude/claude-large", "google/flash"])
async def test_an_answer_comes_as_openai_spells_it(model: str, translating: Translating) -> None:
    """Text, tokens and the reason to end, with the headers of every other answer."""
    async with (
        translating.claude(anthropic),
        translating.google(gemini),
        translating.client() as client,
    ):
        answer = await ask(client, model)
    told = answer.json()
    assert (told["object"], told["model"]) == ("chat.completion", model.partition("/")[2])
    (choice,) = told["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (SAID, "stop")
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (7, 5)
    headers = answer.headers
    assert headers["x-signalbox-provider"] == model.partition("/")[0]
    assert (headers["x-signalbox-shims"], headers["x-signalbox-attempts"]) == ("litellm", "1")
    if model.startswith("claude"):
        assert headers["x-upstream-request-id"] == "req_1"
    assert not any(name.startswith("anthropic") for name in headers)


@pytest.mark.parametrize("model", ["claude/claude-large", "google/flash"])
async def test_a_stream_comes_as_openai_spells_it(model: str, translating: Translating) -> None:
    """Events of chunks, one reason to end, tokens only where they were asked for, [DONE]."""
    async with (
        translating.claude(anthropic),
        translating.google(gemini),
        translating.client() as client,
    ):
        events = chunks((await ask(client, model, stream=True)).text)
        told = chunks(
            (await ask(client, model, stream=True, stream_options={"include_usage": True})).text
        )
    assert said_in(events) == SAID
    reasons = [choice.get("finish_reason") for event in events for choice in event["choices"]]
    assert [reason for reason in reasons if reason] == ["stop"]
    assert not any("usage" in event for event in events)
    assert (told[-1]["choices"], told[-1]["usage"]["completion_tokens"]) == ([], 5)


async def test_a_connection_is_used_again(translating: Translating) -> None:
    """After an answer that was read to its end, streamed or not, the next request goes over it."""
    async with translating.claude(anthropic) as cloud, translating.client() as client:
        for stream in (False, True, True, False):
            await ask(client, "claude/claude-large", stream=stream)
    assert (len(cloud.seen), cloud.connections) == (4, 1)


async def test_tokens_that_the_router_asked_for_are_not_shown(translating: Translating) -> None:
    """A provider with a limit of tokens has them counted, and its client sees none."""
    async with translating.claude(anthropic), translating.client() as client:
        events = chunks((await ask(client, "counted/claude-large", stream=True)).text)
        rows = (await client.get("/admin/egress")).json()["data"]
    assert not any("usage" in event for event in events)
    (row,) = [row for row in rows if row["provider"] == "counted"]
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (1, 7, 5)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_of_a_tool_comes_whole(stream: bool, translating: Translating) -> None:
    """Its name and its arguments, in one answer or in pieces."""
    async with translating.claude(anthropic), translating.client() as client:
        answer = await ask(client, "claude/claude-large", tools=TOOLS, stream=stream)
    if stream:
        choices = [each["choices"][0] for each in chunks(answer.text)]
        calls = [call for each in choices for call in each["delta"].get("tool_calls", [])]
        names = [call["function"].get("name") for call in calls]
        assert ([name for name in names if name], choices[-1]["finish_reason"]) == (
            ["weather"],
            "tool_calls",
        )
        arguments = "".join(call["function"]["arguments"] for call in calls)
    else:
        (choice,) = answer.json()["choices"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"city": "Bern"}


async def test_a_schema_reaches_the_cloud(translating: Translating) -> None:
    """It goes as that cloud takes it."""
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    async with translating.google(gemini) as cloud, translating.client() as client:
        answer = await ask(client, "google/gemini-2.5-flash", response_format=wanted)
    assert answer.status_code == 200
    assert "city" in json.dumps(cloud.seen[0].json["generationConfig"])


@pytest.mark.parametrize(
    ("status", "kind", "message", "code", "says"),
    [
        (400, "invalid_request_error", f"no: {KEY}", 400, "no: [key]"),
        (401, "authentication_error", "invalid x-api-key", 502, "provider_auth_error"),
        (403, "permission_error", "not yours", 502, "provider_auth_error"),
        (404, "not_found_error", "model: claude-large", 404, "model: claude-large"),
        (429, "rate_limit_error", "slow down", 429, "slow down"),
    ],
)
async def test_a_refusal_is_told_as_that_of_any_provider(
    status: int, kind: str, message: str, code: int, says: str, translating: Translating
) -> None:
    """The status counts, the words are the cloud's own without the key, and it is asked once."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(anthropic_error(kind, message), status, retry_after="7")

    for stream in (False, True):
        async with translating.claude(script) as cloud, translating.client() as client:
            answer = await ask(client, "claude/claude-large", stream=stream)
        assert (answer.status_code, len(cloud.seen)) == (code, 1)
        assert says in answer.text
        assert (answer.headers.get("retry-after") == "7") is (code != 502)
        assert KEY not in answer.text
        assert "litellm" not in answer.text


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (529, "overloaded_error", "Overloaded"),
        (500, "api_error", "Internal server error"),
        (400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"),
    ],
)
async def test_what_another_provider_may_do_goes_there(
    status: int, kind: str, message: str, translating: Translating
) -> None:
    """Errors of the cloud's own, and a prompt that is too long for it, lead to the next route."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(anthropic_error(kind, message), status)

    async with (
        translating.claude(script) as first,
        translating.google(gemini),
        translating.client() as client,
    ):
        answer = await ask(client, "text")
        alone = await ask(client, "claude/claude-large", stream=True)
    assert answer.headers["x-signalbox-provider"] == "google"
    assert len(first.seen) == 2
    assert message in alone.text


async def test_a_cloud_that_is_not_there_leads_on(translating: Translating) -> None:
    """A closed port is the route's failure; alone it is told as such."""
    async with translating.google(gemini), translating.client() as client:
        assert (await ask(client, "text")).headers["x-signalbox-provider"] == "google"
        alone = await ask(client, "claude/claude-large")
    assert (alone.status_code, alone.json()["error"]["code"]) == (502, "upstream_unreachable")


async def _cut(conversation: Conversation) -> None:
    """End a stream as HTTP wants it, in the middle of the message."""
    await conversation.begin_stream()
    for event in anthropic_events([{"type": "text", "pieces": ("Hel",)}])[:4]:
        await conversation.event(event)
    await conversation.end_stream()


async def _reset(conversation: Conversation) -> None:
    """Break the connection in the middle of the message."""
    await conversation.begin_stream()
    for event in anthropic_events([{"type": "text", "pieces": ("Hel",)}])[:4]:
        await conversation.event(event)
    conversation.close()


async def _failing(conversation: Conversation) -> None:
    """Say within a stream that it goes no further."""
    await conversation.begin_stream()
    for event in anthropic_events([{"type": "text", "pieces": ("Hel",)}])[:4]:
        await conversation.event(event)
    error = anthropic_error("overloaded_error", "Overloaded")
    await conversation.event(b"event: error\ndata: " + error + b"\n\n")
    await conversation.end_stream()


@pytest.mark.parametrize(
    ("script", "code"),
    [(_cut, "upstream_truncated"), (_reset, "upstream_truncated"), (_failing, None)],
)
async def test_a_stream_that_breaks_never_ends_well(
    script: Any, code: str | None, translating: Translating
) -> None:
    """Cut, reset or failed: what had come is there, then an error, and no reason to end."""
    async with translating.claude(script), translating.client() as client:
        text = (await ask(client, "claude/claude-large", stream=True)).text
    assert '"Hel"' in text
    assert "finish_reason" not in text
    error = failure_of(text)
    assert error["code"] == code
    assert code or "Overloaded" in error["message"]


@pytest.mark.parametrize("when", ["before its head", "before its body", "within its stream"])
async def test_a_client_that_leaves_ends_the_call(when: str, translating: Translating) -> None:
    """The cloud's connection is closed at once, whatever LiteLLM waits for."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        if when == "before its body":
            await conversation.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
            )
        elif when == "within its stream":
            await conversation.begin_stream()
            for event in anthropic_events([{"type": "text", "pieces": ("Hel",)}])[:4]:
                await conversation.event(event)
        asked.set()
        await conversation.left()
        left.set()

    async with translating.claude(script), translating.client() as client:
        stream = when == "within its stream"
        request = asyncio.create_task(ask(client, "claude/claude-large", stream=stream))
        async with asyncio.timeout(20):
            await asked.wait()
            request.cancel()
            await left.wait()
            while (await client.get("/admin/requests")).json()["data"]:
                await asyncio.sleep(0.005)
        await asyncio.wait([request])


@pytest.mark.parametrize(("stream", "code"), [(False, 504), (True, 200)])
async def test_our_deadlines_hold(stream: bool, code: int, translating: Translating) -> None:
    """A cloud that is silent before its answer, or within it, has the time that was set."""
    over = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        if stream:
            await conversation.begin_stream()
            for event in anthropic_events([{"type": "text", "pieces": ("Hel",)}])[:4]:
                await conversation.event(event)
        await conversation.left()
        over.set()

    async with translating.claude(script) as cloud, translating.client() as client:
        answer = await ask(client, "hasty/claude-large", stream=stream)
        async with asyncio.timeout(20):
            await over.wait()
    assert (answer.status_code, len(cloud.seen)) == (code, 1)
    said = failure_of(answer.text) if stream else answer.json()["error"]
    assert said["code"] == ("upstream_idle_timeout" if stream else "upstream_timeout")


HOSTILE = (
    *("api_base", "base_url", "api_key", "custom_llm_provider", "mock_response", "fallbacks"),
    *("callbacks", "success_callback", "timeout", "num_retries", "max_retries", "model_list"),
    *("extra_headers", "extra_body", "extra_query", "client", "litellm_params", "metadata"),
)


async def test_no_field_of_a_request_changes_where_it_goes(translating: Translating) -> None:
    """Arguments of LiteLLM's in a body are not in the call: another host sees nothing."""
    async with (
        ScriptedUpstream() as attacker,
        translating.claude(anthropic) as cloud,
        translating.client() as client,
    ):
        values: dict[str, Any] = dict.fromkeys(HOSTILE, attacker.url)
        values |= {"fallbacks": [attacker.url], "extra_headers": {"x-evil": "1"}, "num_retries": 3}
        for name, value in values.items():
            answer = await ask(client, "claude/claude-large", **{name: value})
            assert answer.json()["choices"][0]["message"]["content"] == SAID, name
    assert attacker.connections == 0
    assert len(cloud.seen) == len(values)
    for seen in cloud.seen:
        assert seen.headers["x-api-key"] == KEY
        assert attacker.url.encode() not in seen.body
        assert "x-evil" not in seen.headers


# Has LiteLLM translate addresses, each through the upstream of a cloud that nobody plays, where
# every other way to anyone is closed.
FETCHING = """
import asyncio, json, socket, sys
from types import SimpleNamespace

sys.path.insert(0, "")
from router.catalog import Kind, Locality, Provider
from router.errors import RouteFailed
from router.translate import TranslatedUpstream
from router.upstream import UpstreamRequest

reached = []

class Exchange:
    asked = True
    def __init__(self, request):
        self.request = request
    async def __aenter__(self):
        reached.append(self.request.body.decode())
        raise RouteFailed("upstream_unreachable", "Nobody is there.")
    async def __aexit__(self, *_):
        pass

def refuse(*_, **__):
    reached.append("somebody")
    raise OSError("somebody was to be reached")

class Socket(socket.socket):
    connect = connect_ex = sendto = sendmsg = refuse

async def main():
    for cloud, model, part in json.loads(sys.argv[1]):
        provider = Provider(
            name=cloud, kind=Kind.LITELLM, base_url="http://cloud", locality=Locality.REMOTE,
            cloud=cloud, api_key="k",
        )
        carrier = SimpleNamespace(exchange=Exchange)
        upstream = TranslatedUpstream(provider, carrier, {}, 1 << 20)
        await upstream.library()
        socket.socket, socket.create_connection, socket.getaddrinfo = Socket, refuse, refuse
        body = {"model": model, "messages": [{"role": "user", "content": [part]}]}
        request = UpstreamRequest("POST", "http://cloud", (), json.dumps(body).encode(), [])
        reached.clear()
        try:
            async with upstream.exchange(request):
                pass
        except RouteFailed as failure:
            print(json.dumps([failure.code, reached]))

asyncio.run(main())
"""


def test_litellm_fetches_no_picture(tmp_path: Path) -> None:
    """Its address goes to the cloud as it is, or to nobody; no other way is tried."""
    at, claude, google = "http://127.0.0.1:9/p", ("anthropic", "c"), ("gemini", "g")
    picture = {"type": "image_url", "image_url": {"url": at}}
    secure = {"type": "image_url", "image_url": {"url": at.replace("http:", "https:")}}
    file = {"type": "file", "file": {"file_data": f"{at}.pdf"}}
    asked = [(*cloud, part) for cloud in (claude, google) for part in (picture, secure, file)]
    done = subprocess.run(
        [f"{made('litellm')}/bin/python", "-c", FETCHING, json.dumps(asked)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(asked), done.stderr
    passed = [(code, len(reached)) for code, reached in told]
    refused = ("image_url_not_allowed", 0)
    # Anthropic's servers fetch for themselves, from secure addresses.
    assert passed == [refused, ("upstream_unreachable", 1), *[refused] * 4], done.stderr
    assert "https://127.0.0.1:9/p" in told[1][1][0]


async def test_a_redirect_is_not_followed(translating: Translating) -> None:
    """A key goes nowhere but to the address that was configured."""
    async with ScriptedUpstream() as elsewhere:

        async def script(conversation: Conversation) -> None:
            await conversation.answer(b"", 307, location=f"{elsewhere.url}/v1/messages")

        async with translating.claude(script), translating.client() as client:
            answer = await ask(client, "claude/claude-large")
    assert answer.json()["error"]["code"] == "upstream_invalid_response"
    assert elsewhere.connections == 0


def said_by(role: str, content: Any, **more: Any) -> dict[str, Any]:
    """Return the field that holds one message."""
    return {"messages": [{"role": role, "content": content, **more}]}


def shown(part: Any) -> dict[str, Any]:
    """Return the field that holds a message of one part."""
    return said_by("user", [part])


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BOTH = ("claude/claude-sonnet-4-5", "google/gemini-2.5-flash")
CLAUDE, GOOGLE = BOTH[:1], BOTH[1:]
# What LiteLLM sends for nobody, whatever it raises then, and what is said of it: a field has no
# counterpart, a request has not the shape of one, or LiteLLM refuses it in so many words.
UNSENT: list[tuple[tuple[str, ...], dict[str, Any], str, str]] = [
    (BOTH, {"logit_bias": {"1": 1}}, "unsupported_parameter", "logit_bias"),
    (BOTH, {"audio": {"voice": "a"}}, "unsupported_parameter", "audio"),
    (CLAUDE, {"n": 2}, "unsupported_parameter", "'n'"),
    (CLAUDE, {"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
    (GOOGLE, {"tools": TOOLS, "tool_choice": "any"}, "unsupported_parameter", "tool_choice"),
    (GOOGLE, {"reasoning_effort": "great"}, "unsupported_parameter", "reasoning_effort"),
    (BOTH, {"tools": [{"type": "mcp", "server_url": "x"}]}, "unsupported_parameter", "mcp"),
    (CLAUDE, {"reasoning_effort": "great"}, "invalid_request", "reasoning effort"),
    (CLAUDE, said_by("system", "a"), "invalid_request", "at least one non-system message"),
    (BOTH, {"messages": []}, "invalid_request", "messages must be"),
    (BOTH, said_by("nonsense", "CANARY"), "invalid_request", "messages[0].role must be"),
    (BOTH, said_by("user", 7), "invalid_request", "messages[0].content must be"),
    (BOTH, said_by("user", {"a": "CANARY"}), "invalid_request", "messages[0].content must be"),
    (BOTH, shown("CANARY"), "invalid_request", "messages[0].content[0] must be"),
    (BOTH, shown({"text": "CANARY"}), "invalid_request", "messages[0].content[0].type must"),
    (BOTH, shown({"type": "odd"}), "invalid_request", "Invalid user message at index 0"),
    (BOTH, {"messages": ["CANARY"]}, "invalid_request", "messages[0] must be"),
    (BOTH, {"max_tokens": "CANARY"}, "invalid_request", "max_tokens must be"),
    (BOTH, {"thinking": "CANARY"}, "invalid_request", "thinking must be"),
    (BOTH, {"tools": [{"type": "function"}]}, "invalid_request", "tools[0].function must"),
    (
        BOTH,
        {"tools": [{"type": "function", "function": {}}]},
        "invalid_request",
        "tools[0].function.name must be",
    ),
    (BOTH, {"tools": TOOLS, "tool_choice": 3}, "invalid_request", "tool_choice must be"),
    (
        BOTH,
        {"tools": TOOLS, "tool_choice": {"type": "function"}},
        "invalid_request",
        "Invalid tool choice",
    ),
    (
        BOTH,
        said_by("assistant", None, tool_calls=[{**CALL, "function": {"name": "f"}}]),
        "invalid_request",
        "messages[0].tool_calls[0].function.arguments must be",
    ),
    (BOTH, said_by("tool", "CANARY"), "invalid_request", "messages[0].tool_call_id must be"),
    (GOOGLE, said_by("tool", "x", tool_call_id="a"), "invalid_request", "Missing corresponding"),
    (BOTH, {"response_format": "CANARY"}, "invalid_request", "response_format must be"),
    (
        BOTH,
        {"response_format": {"type": "json_schema"}},
        "invalid_request",
        "response_format.json_schema must be",
    ),
    (
        BOTH,
        shown({"type": "file", "file": {}}),
        "invalid_request",
        "messages[0].content[0].file must be",
    ),
    (
        GOOGLE,
        shown({"type": "input_audio"}),
        "invalid_request",
        "messages[0].content[0].input_audio must be",
    ),
    (
        BOTH,
        shown({"type": "file", "file": {"file_data": "http://127.0.0.1:9/a.pdf"}}),
        "file_url_not_allowed",
        "data: URI",
    ),
]


async def attempts_left(client: httpx2.AsyncClient) -> tuple[Any, Any]:
    """Return what was counted as sent, and how the providers stand."""
    egress = (await client.get("/admin/egress")).json()["data"]
    return egress, (await client.get("/admin/providers")).json()


@pytest.mark.parametrize(
    ("models", "more", "code", "says"), UNSENT, ids=lambda case: str(case)[:60]
)
async def test_what_cannot_be_translated_is_said(
    models: tuple[str, ...],
    more: dict[str, Any],
    code: str,
    says: str,
    translating: Translating,
) -> None:
    """It is the request's fault, by name, and nobody was asked: nothing is counted as sent."""
    async with (
        translating.claude(anthropic) as claude,
        translating.google(gemini) as google,
        translating.client() as client,
    ):
        before = await attempts_left(client)
        for model in models:
            answer = await ask(client, model, **more)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, code), error
            assert says in error["message"]
            told = ("drop_params", "litellm.", "Traceback", "CANARY", "github")
            assert not any(word in error["message"] for word in told), error["message"]
        assert await attempts_left(client) == before
    assert (claude.connections, google.connections) == (0, 0)


async def test_what_one_cloud_cannot_be_told_another_is(translating: Translating) -> None:
    """It is no attempt, and costs nothing, to have found out."""
    async with translating.google(gemini) as cloud, translating.client() as client:
        answer = await ask(client, "text", n=2)
    assert (answer.status_code, answer.headers["x-signalbox-provider"]) == (200, "google")
    assert answer.headers["x-signalbox-attempts"] == "1"
    assert len(cloud.seen) == 1


async def test_a_mistake_of_litellms_is_not_told_as_the_clients(translating: Translating) -> None:
    """A schema may say `true`: the request is as it should be, and nobody was asked."""
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": True}}}
    tools = [{"type": "function", "function": function}]
    async with translating.google(gemini) as cloud, translating.client() as client:
        before = await attempts_left(client)
        answer = await ask(client, GOOGLE[0], tools=tools)
        assert await attempts_left(client) == before
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "internal_error")
    assert "LiteLLM failed over this request" in error["message"]
    assert cloud.connections == 0


async def test_no_key_of_the_environment_is_used(translating: Translating) -> None:
    """Without a key in the configuration none goes out."""
    async with translating.claude(anthropic) as cloud, translating.client() as client:
        await ask(client, "keyless/claude-large")
    assert STRAY not in str(cloud.seen[0].headers)


async def test_an_answer_that_is_none_is_said_to_be_none(translating: Translating) -> None:
    """A body of another form is the provider's fault, and no trace of LiteLLM is shown."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(b'{"type": "message"}')

    async with translating.claude(script), translating.client() as client:
        answer = await ask(client, "claude/claude-large")
    assert answer.json()["error"]["code"] == "upstream_invalid_response"
    assert "Traceback" not in answer.text


async def test_a_cloud_is_tried_out_and_not_asked_for_a_list(translating: Translating) -> None:
    """It has no list in OpenAI's words: a probe shows whether it can be used."""
    async with translating.claude(anthropic) as cloud, translating.client() as client:
        verdict = (await client.post("/admin/providers/claude/test")).json()
        assert (verdict["ok"], cloud.connections) == (False, 0)
        assert "signalbox models probe claude/MODEL --yes" in verdict["message"]
        wanted = {"model": "claude/tried", "capabilities": ["text"], "allow_remote": True}
        tried = (await client.post("/admin/models/probe", json=wanted)).json()
    assert tried["verdicts"]["text"]["value"] is True


async def test_the_real_table_tells_of_models(translating: Translating) -> None:
    """The installed LiteLLM's own table says what a model can do."""
    async with translating.client() as client:
        told = (await client.get("/admin/models")).json()
        (row,) = [row for row in told["data"] if row["model"] == "claude/claude-sonnet-4-5"]
    assert told["notices"] == []
    assert row["context_length"] == 200_000
    assert row["facts"]["file"]["source"] == "litellm table"


async def test_nothing_secret_is_in_the_log(translating: Translating) -> None:
    """Neither keys nor prompts nor LiteLLM's own words are written."""
    async with translating.claude(anthropic), translating.client() as client:
        messages = [{"role": "user", "content": "CANARY-of-a-prompt"}]
        assert (await ask(client, "claude/claude-large", messages=messages)).status_code == 200
        # LiteLLM's reason repeats the message that it is about.
        result = {
            "role": "tool",
            "tool_call_id": "CANARY-of-a-call",
            "content": "CANARY-of-a-result",
        }
        messages.append(result)
        refused = await ask(client, "google/flash", messages=messages)
        assert "CANARY-of-a-result" in refused.json()["error"]["message"]
    log = translating.log()
    assert not any(word in log for word in (KEY, STRAY, "CANARY", "Give Feedback", "Traceback"))


def test_folder_of_the_data_holds_no_key(translating: Translating) -> None:
    """Nothing that the router keeps repeats a key."""
    folder = translating.log_path.parent
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "router.yaml"]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)


# Loads LiteLLM where nobody can be reached and the folder holds a file of variables. One of what it
# needs asks the kernel, by a socket that reaches nowhere, whether there is IPv6.
LOADING = """
import os, socket, sys

def refuse(*_, **__):
    raise SystemExit("somebody was to be reached")

class Socket(socket.socket):
    connect = connect_ex = sendto = sendmsg = refuse

before = set(os.environ)
socket.socket, socket.create_connection, socket.getaddrinfo = Socket, refuse, refuse
from router.translate import load
assert "litellm" not in sys.modules, "it was imported too early"
library = load()
assert not set(os.environ) - before - {allowed!r}, set(os.environ) - before
assert "litellm.proxy.proxy_server" not in sys.modules
for when in ("input", "success", "failure", "service", "_async_success", "_async_failure"):
    assert not getattr(library.litellm, when + "_callback"), when
assert not library.litellm.callbacks
assert library.litellm.telemetry is False
"""
ALLOWED = {
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
    "LITELLM_LOCAL_BLOG_POSTS",
    "LITELLM_LOCAL_MODEL_COST_MAP",
    "LITELLM_LOG",
    "LITELLM_MODE",
    "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB",
    # Where its own copy of a tokenizer lies.
    "CUSTOM_TIKTOKEN_CACHE_DIR",
    "TIKTOKEN_CACHE_DIR",
}


def test_loading_reaches_nobody_and_reads_no_variables(tmp_path: Path) -> None:
    """No connection is made, no .env file is read, no proxy server runs, nobody is called back."""
    (tmp_path / ".env").write_text("STRAY_VARIABLE=1\n", encoding="utf-8")
    done = subprocess.run(
        [f"{made('litellm')}/bin/python", "-c", LOADING.format(allowed=ALLOWED)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_other_endpoints_are_told_to_be_elsewhere(translating: Translating) -> None:
    """What is not translated is no route."""
    async with translating.client() as client:
        answer = await client.post(
            "/v1/embeddings", json={"model": "claude/claude-large", "input": "x"}
        )
    assert answer.status_code == 400
    assert "LiteLLM translates conversations only" in answer.text
