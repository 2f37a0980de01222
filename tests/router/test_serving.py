"""What models answer at each endpoint, through a real router in front of a scripted provider."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from router.endpoints import ENDPOINTS
from tests.harness.asking import Told, assert_error
from tests.harness.authority import Authority
from tests.harness.endpoints import (
    AUDIO,
    REQUESTS,
    ask_endpoint,
    bound_to,
    content_of,
    form,
    serve_all,
)
from tests.harness.one_provider import scripted, streams
from tests.harness.raw_client import RawClient
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

SPEECH, TRANSCRIPTION = "/v1/audio/speech", "/v1/audio/transcriptions"
IMAGES, RESPONSES, MESSAGES = "/v1/images/generations", "/v1/responses", "/v1/messages"


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_request_goes_to_the_same_path_of_its_provider(tmp_path: Path, path: str) -> None:
    """With the provider's own id of the model, and no other field changed."""
    async with (
        ScriptedUpstream(serve_all) as fm,
        running_router(tmp_path, **bound_to(fm)) as signalbox,
    ):
        told = await ask_endpoint(signalbox.port, path, model="fm/m", odd={"a": [1]})
    assert told.status == 200
    seen = fm.seen[0]
    assert seen.target == path
    takes_json = path not in {SPEECH, TRANSCRIPTION}
    assert seen.headers["accept"] == ("application/json" if takes_json else "*/*")
    if ENDPOINTS[path].form:
        assert seen.headers["content-type"] == "multipart/form-data; boundary=b0"
        assert seen.body == form({**REQUESTS[path], "model": "m", "odd": {"a": [1]}})
    else:
        assert seen.headers["content-type"] == "application/json"
        assert seen.json == {**REQUESTS[path], "model": "m", "odd": {"a": [1]}}


async def test_what_a_provider_is_told_of_the_client(tmp_path: Path) -> None:
    """Its protocol's own headers, and at no other endpoint; the key where the provider wants it."""
    async with ScriptedUpstream(serve_all) as fm:
        settings = bound_to(fm, api_key={"env": "KEY"}, key_header="x-api-key")
        async with running_router(tmp_path, environ={"KEY": "k1"}, **settings) as signalbox:
            lines = ("anthropic-version: 2023-06-01", "anthropic-beta: a", "anthropic-beta: b")
            for path in (MESSAGES, "/v1/chat/completions"):
                await ask_endpoint(signalbox.port, path, *lines, "x-odd: 1")
            odd = await ask_endpoint(signalbox.port, MESSAGES, "anthropic-version: \xe4")
    messages, chat = (conversation.headers for conversation in fm.seen)
    assert (messages["anthropic-version"], messages["anthropic-beta"]) == ("2023-06-01", "a, b")
    assert messages["x-api-key"] == chat["x-api-key"] == "k1"
    for header in ("authorization", "x-odd"):
        assert header not in messages
    assert "anthropic-version" not in chat
    assert odd.status == 400


# Sound


async def _speech(
    folder: Path, script: Script, tls: Authority | None = None, **sections: Any
) -> tuple[int, dict[str, str], bytes]:
    """Ask for speech; return what came until the router had no more to say."""
    trust = {"ca_file": str(tls.file)} if tls else {}
    async with (
        scripted(tls, script) as fm,
        running_router(folder, **bound_to(fm, **trust), **sections) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post(SPEECH, REQUESTS[SPEECH], connection="close")
        status, headers = await client.head()
        return status, headers, await client.rest_or_reset()


async def test_sound_reaches_the_client_before_the_rest_is_made(tmp_path: Path) -> None:
    """Bytes are passed on as they come, under their own type."""
    heard = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await conversation.event(b"\x00\xffone")
        await heard.wait()
        await conversation.event(b"two")
        await conversation.end_stream()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **bound_to(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post(SPEECH, REQUESTS[SPEECH])
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "audio/mpeg")
        assert await client.chunk() == b"\x00\xffone"
        heard.set()
        assert await client.chunk() == b"two"
        assert await client.chunk() == b""


async def test_broken_sound_is_a_broken_connection(tmp_path: Path, tls: Authority | None) -> None:
    """Nothing in it could say that it is not whole, so that its end never comes."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 99\r\n\r\nhalf"
        )
        conversation.reset()

    status, _, rest = await _speech(tmp_path, script, tls)
    assert (status, rest) == (200, b"4\r\nhalf\r\n")


async def test_silence_within_sound_has_a_deadline(tmp_path: Path, tls: Authority | None) -> None:
    """A provider that stops sending is given up, and so is the connection to the client."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 99\r\n\r\nhalf"
        )
        await conversation.left()

    status, _, rest = await _speech(tmp_path, script, tls, timeouts={"idle_s": 0.1})
    assert (status, rest) == (200, b"4\r\nhalf\r\n")


async def test_sound_may_be_made_slowly(tmp_path: Path) -> None:
    """Each piece of it begins the deadline anew."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 20\r\n\r\n"
        )
        for _ in range(20):
            await asyncio.sleep(0.04)
            await conversation.send(b"x")

    status, _, rest = await _speech(tmp_path, script, timeouts={"idle_s": 0.5})
    assert (status, rest.count(b"x")) == (200, 20)
    assert rest.endswith(b"0\r\n\r\n")


async def test_a_slow_listener_is_no_silent_provider(tmp_path: Path) -> None:
    """While the client is waited for, the provider's deadline rests."""
    size, pieces = 1_000_000, 20

    async def script(conversation: Conversation) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: {size * pieces}"
        await conversation.send(head.encode() + b"\r\n\r\n")
        for _ in range(pieces):
            await conversation.send(b"x" * size)

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **bound_to(fm), timeouts={"idle_s": 0.2}) as signalbox,
        RawClient(signalbox.port, receive_buffer=1 << 17) as client,
    ):
        await client.post(SPEECH, REQUESTS[SPEECH], connection="close")
        await client.head()
        client.stop_reading()
        for _ in range(12):
            await asyncio.sleep(0.04)
        client.read_on()
        rest = await client.rest_or_reset()
    assert rest.count(b"x") == size * pieces
    assert rest.endswith(b"0\r\n\r\n")


async def test_sound_is_not_kept_for_a_client_that_does_not_read(tmp_path: Path) -> None:
    """A provider that is faster than its client has to wait."""
    sent = 0
    stalled = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        try:
            while sent < 200:
                async with asyncio.timeout(0.3):
                    await conversation.event(b"x" * 1_000_000)
                sent += 1
        except TimeoutError:
            stalled.set()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **bound_to(fm)) as signalbox,
        RawClient(signalbox.port, receive_buffer=2048) as client,
    ):
        await client.post(SPEECH, REQUESTS[SPEECH])
        await client.head()
        client.stop_reading()
        await stalled.wait()
    assert sent < 40


@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/event-stream"])
async def test_what_is_no_sound_is_no_answer(tmp_path: Path, kind: str) -> None:
    """It is told apart before the answer begins."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(b"{}", kind=kind)

    status, _, rest = await _speech(tmp_path, script)
    assert status == 502
    assert json.loads(rest)["error"]["code"] == "upstream_invalid_response"


async def test_sound_ends_for_who_leaves(tmp_path: Path, tls: Authority | None) -> None:
    """A provider that makes it for nobody is told by its connection."""
    told = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 99\r\n\r\nhalf"
        )
        await conversation.left()
        told.set()

    trust = {"ca_file": str(tls.file)} if tls else {}
    async with (
        scripted(tls, script) as fm,
        running_router(tmp_path, **bound_to(fm, **trust)) as signalbox,
    ):
        async with RawClient(signalbox.port) as client:
            await client.post(SPEECH, REQUESTS[SPEECH])
            await client.head()
            assert await client.chunk() == b"half"
            client.reset()
        await asyncio.wait_for(told.wait(), 1)


async def test_sound_that_never_begins_is_another_providers_to_make(tmp_path: Path) -> None:
    """Until its first byte, the next model of the binding may still serve."""

    async def empty(conversation: Conversation) -> None:
        await conversation.answer(b"", kind="audio/mpeg")

    async with ScriptedUpstream(empty) as fm, ScriptedUpstream(serve_all) as other:
        settings = bound_to(fm)
        settings["providers"]["other"] = openai_provider(other.url)
        settings["capabilities"]["speech"] = ["fm/m", "other/o"]
        async with running_router(tmp_path, **settings) as signalbox:
            answer = await signalbox.client.post(SPEECH, json=REQUESTS[SPEECH])
    assert (answer.status_code, answer.content) == (200, b'"sound"')
    assert answer.headers["x-signalbox-provider"] == "other"
    assert answer.headers["x-signalbox-attempts"] == "2"


async def test_sound_that_never_begins_has_a_deadline(tmp_path: Path) -> None:
    """A head alone is no answer."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 99\r\n\r\n"
        )
        await conversation.left()

    status, _, _ = await _speech(tmp_path, script, timeouts={"first_byte_s": 0.1})
    assert status == 504


async def test_empty_sound_is_no_answer(tmp_path: Path) -> None:
    """Another provider could still serve."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(b"", kind="audio/mpeg")

    status, _, _ = await _speech(tmp_path, script)
    assert status == 502


# Text


@pytest.mark.parametrize(
    ("kind", "wants_stream", "status"),
    [
        ("text/plain; charset=utf-8", False, 200),
        ("text/vtt", False, 200),
        ("application/x-subrip", False, 200),
        ("text/plain", True, 200),
        ("text/html", False, 502),
        ("text/event-stream", False, 502),
        ("application/json", False, 502),
        ("audio/mpeg", False, 502),
    ],
)
async def test_a_transcription_may_be_plain_text(
    tmp_path: Path, kind: str, wants_stream: bool, status: int
) -> None:
    """Subtitles pass as they are; what calls itself JSON has to be it."""
    text = _event("transcript.text.done")

    async def script(conversation: Conversation) -> None:
        await conversation.answer(text, kind=kind)

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **bound_to(fm)) as box:
        answer = await box.client.post(
            TRANSCRIPTION,
            content=form({"model": "auto", "stream": "true" if wants_stream else "false"}),
            headers={"content-type": "multipart/form-data; boundary=b0"},
        )
    assert answer.status_code == status
    if status == 200:
        assert (answer.headers["content-type"], answer.content) == (kind, text)


async def test_a_large_file_arrives_whole(tmp_path: Path) -> None:
    """Larger than what is sent in one piece."""
    sound = AUDIO * 500_000
    body = form({"model": "auto"}).replace(AUDIO, sound)
    async with ScriptedUpstream(serve_all) as fm, running_router(tmp_path, **bound_to(fm)) as box:
        answer = await box.client.post(
            TRANSCRIPTION,
            content=body,
            headers={"content-type": "multipart/form-data; boundary=b0"},
        )
    assert answer.status_code == 200
    assert fm.seen[0].body == body.replace(b"\r\nauto\r\n", b"\r\nm\r\n")


async def test_a_form_that_cannot_be_read_is_refused_before_anybody_is_asked(
    tmp_path: Path,
) -> None:
    """With what is wrong with it."""
    async with ScriptedUpstream(serve_all) as fm, running_router(tmp_path, **bound_to(fm)) as box:
        answer = await box.client.post(
            TRANSCRIPTION,
            content=form({"model": "auto"})[:-9],
            headers={"content-type": "multipart/form-data; boundary=b0"},
        )
        assert fm.connections == 0
    assert answer.status_code == 400
    assert "breaks off" in answer.json()["error"]["message"]


# Streams


_CHUNK = b'data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n'
_LAST = b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
_STREAMS: list[tuple[str, dict[str, Any], tuple[bytes, ...], bytes]] = [
    ("/v1/completions", {"stream": True}, (_CHUNK,), _LAST),
    (
        RESPONSES,
        {"stream": True},
        (_event("response.created", sequence_number=0),),
        _event("response.completed", sequence_number=1),
    ),
    (RESPONSES, {"stream": True}, (_event("response.created"),), _event("response.failed")),
    (RESPONSES, {"stream": True}, (_event("response.created"),), _event("response.incomplete")),
    (MESSAGES, {"stream": True}, (_event("message_start"), _event("ping")), _event("message_stop")),
    (
        SPEECH,
        {"stream_format": "sse"},
        (_event("speech.audio.delta"),),
        _event("speech.audio.done"),
    ),
    (
        TRANSCRIPTION,
        {"stream": "true"},
        (_event("transcript.text.delta"),),
        _event("transcript.text.done"),
    ),
    (
        IMAGES,
        {"stream": True},
        (_event("image_generation.partial_image"), _event("image_generation.completed")),
        _event("image_generation.completed"),
    ),
]


async def _streamed(
    folder: Path, path: str, fields: dict[str, Any], *pieces: bytes, **sections: Any
) -> bytes:
    """Return the body of a stream, framed to its end."""
    async with (
        ScriptedUpstream(streams(*pieces)) as fm,
        running_router(folder, **bound_to(fm), **sections) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        kind, body = content_of(path, {**REQUESTS[path], **fields})
        await client.post(path, body, content_type=kind.partition(": ")[2])
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert fm.seen[0].headers["accept"] == "text/event-stream"
        return await client.body(headers)


@pytest.mark.parametrize(("path", "fields", "pieces", "last"), _STREAMS)
async def test_a_stream_passes_as_it_came(
    tmp_path: Path, path: str, fields: dict[str, Any], pieces: tuple[bytes, ...], last: bytes
) -> None:
    """Whole by its own protocol's terms, event names and all."""
    assert await _streamed(tmp_path, path, fields, *pieces, last) == b"".join(pieces) + last


@pytest.mark.parametrize(
    ("path", "fields", "pieces"), [each[:3] for each in _STREAMS if each[0] != IMAGES]
)
async def test_a_stream_that_ends_too_early_ends_in_an_error(
    tmp_path: Path, path: str, fields: dict[str, Any], pieces: tuple[bytes, ...]
) -> None:
    """In the protocol's own words."""
    body = await _streamed(tmp_path, path, fields, *pieces)
    assert body.startswith(b"".join(pieces))
    frame = body.removeprefix(b"".join(pieces))
    told = json.loads(frame.partition(b"data: ")[2])
    assert told["error"]["code"] == "upstream_truncated"
    assert frame.startswith(b"event: error\n") is (path in {RESPONSES, MESSAGES})
    assert told.get("type") == ("error" if path in {RESPONSES, MESSAGES} else None)


async def test_an_error_knows_its_place_in_a_stream_that_counts(tmp_path: Path) -> None:
    """It is numbered after the last event that came."""
    first = _event("response.created", sequence_number=6)
    body = await _streamed(tmp_path, RESPONSES, {"stream": True}, first)
    assert json.loads(body.rpartition(b"data: ")[2])["sequence_number"] == 7


async def test_pictures_are_larger_than_other_events(tmp_path: Path) -> None:
    """An event may hold a whole one."""
    last = _event("image_generation.completed", b64_json="A" * 3_000_000)
    assert await _streamed(tmp_path, IMAGES, {"stream": True}, last) == last


async def test_pings_alone_keep_no_stream_alive(tmp_path: Path) -> None:
    """They pass, and are no answer."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(_event("message_start"))
        for _ in range(100):
            await conversation.event(_event("ping"))
            await asyncio.sleep(0.02)

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **bound_to(fm), timeouts={"idle_s": 0.1}) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post(MESSAGES, {**REQUESTS[MESSAGES], "stream": True})
        _, headers = await client.head()
        body = await client.body(headers)
    assert b"upstream_idle_timeout" in body
    assert body.count(b"event: ping") < 100


async def test_a_providers_own_error_ends_a_stream(tmp_path: Path) -> None:
    """It is forwarded once, and no second one follows."""
    events = (
        _event("message_start"),
        _event("error", error={"type": "overloaded_error", "message": "busy"}),
    )
    body = await _streamed(tmp_path, MESSAGES, {"stream": True}, *events, _event("message_stop"))
    assert body == b"".join(events)


# Who has which dialect


async def test_a_dialect_goes_to_who_has_it(tmp_path: Path) -> None:
    """Who has neither it nor chat is passed over, and said so where nobody has."""
    async with ScriptedUpstream(serve_all) as fm:
        settings = bound_to(fm)
        settings["providers"]["plain"] = {**settings["providers"]["fm"], "dialects": []}
        settings["capabilities"]["text"] = ["plain/p", "fm/m"]
        async with running_router(tmp_path, **settings) as signalbox:
            for path in (RESPONSES, MESSAGES, "/v1/messages/count_tokens"):
                told = await ask_endpoint(signalbox.port, path)
                assert told.headers["x-signalbox-provider"] == "fm"
            told = await ask_endpoint(signalbox.port, RESPONSES, model="plain/p")
            assert_error(told, 400, "capability_mismatch")
            assert "providers.plain.dialects" in told.content["error"]["message"]


async def test_a_provider_without_chat_gets_none(tmp_path: Path) -> None:
    """The setting says all that it has."""
    async with ScriptedUpstream(serve_all) as fm:
        settings = bound_to(fm, dialects=["messages"])
        async with running_router(tmp_path, **settings) as signalbox:
            told = await ask_endpoint(signalbox.port, "/v1/chat/completions")
            assert_error(told, 400, "capability_mismatch")
            assert (await ask_endpoint(signalbox.port, MESSAGES)).status == 200


async def test_anthropics_sdk_reads_our_errors(tmp_path: Path) -> None:
    """On its protocol's paths they bear its type, from the guard's to the provider's."""
    async with ScriptedUpstream(serve_all) as fm:

        async def fail(conversation: Conversation) -> None:
            await conversation.answer(b"no", status=400, kind="text/plain")

        async with running_router(tmp_path, **bound_to(fm)) as signalbox:
            fm.script = fail
            answers = [
                await ask_endpoint(signalbox.port, MESSAGES, model="nobody/none"),
                await ask_endpoint(signalbox.port, MESSAGES, "x-priority: x"),
                await ask_endpoint(signalbox.port, MESSAGES),
            ]
    assert [answer.content["type"] for answer in answers] == ["error"] * 3
    assert [_code(answer) for answer in answers] == [
        "model_not_found",
        "invalid_priority",
        "invalid_request",
    ]


def _code(told: Told) -> str:
    code: str = told.content["error"]["code"]
    return code


async def test_a_chat_model_named_for_another_endpoint_gets_its_providers_own_error(
    tmp_path: Path,
) -> None:
    """What is not known is for the provider to say."""

    async def script(conversation: Conversation) -> None:
        error = {"message": "this model does not support embeddings", "type": "x", "code": "own"}
        await conversation.answer(json.dumps({"error": error}).encode(), status=400)

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **bound_to(fm)) as box:
        told = await ask_endpoint(box.port, "/v1/embeddings", model="fm/chatty")
    assert (told.status, told.code) == (400, "own")
