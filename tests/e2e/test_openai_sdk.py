"""OpenAI's own SDK at each endpoint, through a router, to a scripted provider."""

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError

from tests.harness.endpoints import bound_to
from tests.harness.one_provider import streams
from tests.harness.running_router import running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream


@asynccontextmanager
async def _client(
    folder: Path, script: Script, **sections: Any
) -> AsyncIterator[tuple[AsyncOpenAI, ScriptedUpstream]]:
    """Run a router whose every capability the script serves; return an SDK that knows it."""
    async with (
        ScriptedUpstream(script) as fm,
        running_router(folder, **{**bound_to(fm), **sections}) as signalbox,
        AsyncOpenAI(base_url=signalbox.url, api_key="any", max_retries=0) as client,
    ):
        yield client, fm


def _says(content: dict[str, Any]) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.answer(json.dumps(content).encode())

    return script


def _events(*events: dict[str, Any]) -> Script:
    return streams(
        *(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events)
    )


async def test_embeddings(tmp_path: Path) -> None:
    """In base64, as the SDK asks for them."""
    row = {"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}
    answer = {"object": "list", "data": [row], "model": "m", "usage": {}}
    async with _client(tmp_path, _says(answer)) as (client, fm):
        made = await client.embeddings.create(model="auto", input="hello")
    assert made.data[0].embedding == [0.25, 0.5]
    assert fm.seen[0].json["encoding_format"] == "base64"


async def test_speech_streams(tmp_path: Path) -> None:
    """The SDK reads sound as it comes."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for piece in (b"ID3\x00", b"\xffmore"):
            await conversation.event(piece)
        await conversation.end_stream()

    async with _client(tmp_path, script) as (client, _):
        asked = client.audio.speech.with_streaming_response.create(
            model="speech", voice="alloy", input="hello"
        )
        async with asked as answer:
            assert answer.headers["content-type"] == "audio/mpeg"
            assert b"".join([piece async for piece in answer.iter_bytes()]) == b"ID3\x00\xffmore"


async def test_broken_speech_raises(tmp_path: Path) -> None:
    """Half of it is never taken for all of it."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 99\r\n\r\nhalf"
        )
        conversation.reset()

    async with _client(tmp_path, script) as (client, _):
        with pytest.raises(Exception, match=r"(?i)peer|closed|connection|incomplete"):
            await client.audio.speech.create(model="auto", voice="alloy", input="hello")


async def test_a_transcription_of_a_file(tmp_path: Path) -> None:
    """The SDK's form goes through; the provider gets its own name of the model."""
    sound = ("a.wav", io.BytesIO(b"RIFF\x00\xff\r\n--"), "audio/wav")
    async with _client(tmp_path, _says({"text": "hello"})) as (client, fm):
        told = await client.audio.transcriptions.create(
            model="auto", file=sound, language="de", timestamp_granularities=["word", "segment"]
        )
    assert told.text == "hello"
    body = fm.seen[0].body
    assert b'name="model"\r\n\r\nm\r\n' in body
    assert b"RIFF\x00\xff\r\n--\r\n" in body
    assert body.count(b'name="timestamp_granularities[]"') == 2


async def test_a_transcription_streams(tmp_path: Path) -> None:
    """Its events reach the SDK with their types."""
    script = _events(
        {"type": "transcript.text.delta", "delta": "he"},
        {"type": "transcript.text.done", "text": "he"},
    )
    async with _client(tmp_path, script) as (client, _):
        stream = await client.audio.transcriptions.create(
            model="auto", file=("a.wav", b"RIFF"), stream=True
        )
        kinds = [event.type async for event in stream]
    assert kinds == ["transcript.text.delta", "transcript.text.done"]


async def test_images(tmp_path: Path) -> None:
    """Whole and streamed."""
    answer = {"created": 1, "data": [{"b64_json": "QQ=="}]}
    async with _client(tmp_path, _says(answer)) as (client, _):
        made = await client.images.generate(model="image_generation", prompt="a cat")
    assert made.data
    assert made.data[0].b64_json == "QQ=="
    script = _events({"type": "image_generation.completed", "b64_json": "QQ=="})
    async with _client(tmp_path, script) as (client, _):
        stream = await client.images.generate(model="auto", prompt="a cat", stream=True)
        assert [event.type async for event in stream] == ["image_generation.completed"]


def _text(text: str, finish_reason: str | None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None}
    chunk = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    return f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n".encode()


async def test_completions_stream(tmp_path: Path) -> None:
    """And a cut one raises."""
    whole = streams(_text("on", None), _text("ce", "stop"), b"data: [DONE]\n\n")
    async with _client(tmp_path, whole) as (client, _):
        stream = await client.completions.create(model="auto", prompt="x", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "once"
    async with _client(tmp_path, streams(_text("on", None))) as (client, _):
        stream = await client.completions.create(model="auto", prompt="x", stream=True)
        with pytest.raises(APIError) as raised:
            [chunk async for chunk in stream]
    assert raised.value.code == "upstream_truncated"


_RESPONSE = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "output": [],
    "parallel_tool_calls": False,
    "tool_choice": "auto",
    "tools": [],
}


async def test_responses_stream(tmp_path: Path) -> None:
    """Whole by its own last event; a cut one raises, though the protocol has an event for it."""
    first = {"type": "response.created", "sequence_number": 0, "response": _RESPONSE}
    last = {"type": "response.completed", "sequence_number": 1, "response": _RESPONSE}
    async with _client(tmp_path, _events(first, last)) as (client, fm):
        stream = await client.responses.create(
            model="auto", input="hello", stream=True, previous_response_id="r0", store=True
        )
        assert [event.type async for event in stream] == ["response.created", "response.completed"]
    assert (fm.seen[0].json["previous_response_id"], fm.seen[0].json["store"]) == ("r0", True)
    async with _client(tmp_path, _events(first)) as (client, _):
        stream = await client.responses.create(model="auto", input="hello", stream=True)
        with pytest.raises(APIError) as raised:
            [event async for event in stream]
    assert raised.value.code == "upstream_truncated"


async def test_what_nobody_serves_is_raised_as_what_it_is(tmp_path: Path) -> None:
    """A family without a model, and a dialect that its provider has not, nor chat."""
    async with ScriptedUpstream() as fm:
        other = {**bound_to(fm)["providers"]["fm"], "dialects": ["messages"]}
        sections = {"providers": {"fm": other}, "capabilities": {"text": ["fm/m"]}}
    async with _client(tmp_path, _says({}), **sections) as (client, _):
        with pytest.raises(NotFoundError) as unbound:
            await client.embeddings.create(model="auto", input="hello")
        with pytest.raises(BadRequestError) as unspoken:
            await client.responses.create(model="auto", input="hello")
    assert unbound.value.code == "capability_not_assigned"
    assert unspoken.value.code == "capability_mismatch"
