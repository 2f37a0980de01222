"""Providers that fail within a stream: what the client sees is whole events and one clear end."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router import pump
from tests.harness.authority import Authority
from tests.harness.one_provider import (
    DELTA,
    DONE,
    HELLO,
    STOP,
    STREAMED,
    error_of,
    last_error,
    one_provider,
    streamed,
    streams,
    two_providers,
)
from tests.harness.raw_client import RawClient
from tests.harness.running_router import idle
from tests.harness.scripted_upstream import Conversation, Script, hello

_UNICODE = (
    'data: {"choices":[{"index":0,"delta":{"content":"\u00e4\u20ac\U0001f600"},'
    '"finish_reason":null}]}\r\n\r\n'
).encode()
_TRANSCRIPT = b": hi\n\n" + DELTA + _UNICODE + STOP.replace(b"\n", b"\r") + DONE


async def test_row_52_events_cut_anywhere_arrive_whole_and_unchanged(
    tmp_path: Path, tls: Authority | None
) -> None:
    """Wherever the bytes are cut in two, within UTF-8 and CRLF too, the same bytes arrive."""

    async def script(conversation: Conversation) -> None:
        cut = conversation.json["cut"]
        await conversation.begin_stream()
        await conversation.event(_TRANSCRIPT[:cut])
        # Turns of the loop in which the router reads what there is.
        for _ in range(3):
            await asyncio.sleep(0)
        await conversation.event(_TRANSCRIPT[cut:])
        await conversation.end_stream()

    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        for cut in range(1, len(_TRANSCRIPT)):
            assert await streamed(signalbox, {**STREAMED, "cut": cut}) == _TRANSCRIPT, cut


_EMPTY_DELTA = DELTA.replace(b'"x"', b'""')
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
# The very last byte comes alone, after a blank line that was one without it.
_HALF_A_LINE_END = STOP[:-1] + b"\r\n", (_STREAM_HEAD + b"\r\n", STOP[:-1] + b"\r", b"\n")
# How a line and the blank line after it may end. CR and then LF would be one end of one line.
_LINE_ENDS = [(a, b) for a in ("\n", "\r", "\r\n") for b in ("\n", "\r", "\r\n") if a + b != "\r\n"]
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_FIELDS = st.sampled_from([": a comment", "event: message", "id: 7", "retry: 10", "unknown: field"])


@st.composite
def _transcripts(draw: st.DrawFn) -> bytes:
    """Draw a whole answer: deltas with any text, other fields, comments, any line ends."""

    def event(*lines: str) -> str:
        end, blank = draw(st.sampled_from(_LINE_ENDS))
        return "".join(line + end for line in lines) + blank

    def chunk(delta: dict[str, str], reason: str | None) -> str:
        space = draw(st.sampled_from(["", " "]))
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        data = json.dumps({"choices": [choice]}, ensure_ascii=draw(st.booleans()))
        return event(*draw(st.lists(_FIELDS, max_size=2)), f"data:{space}{data}")

    events = [chunk({"content": draw(_TEXT)}, None) for _ in range(draw(st.integers(1, 4)))]
    events.insert(draw(st.integers(0, len(events))), event(": nothing"))
    events.append(chunk({}, "stop"))
    # After [DONE] nothing is read, not even the second half of a line end.
    events.append(draw(st.sampled_from(["", "data: [DONE]\n\n", "data:[DONE]\r\r"])))
    return "".join(events).encode()


@st.composite
def _pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Draw a cutting of `data` into pieces: anywhere, and more often where a line ends."""
    line_ends = [
        at
        for at in range(1, len(data))
        if b"\r" in data[at - 1 : at + 1] or b"\n" in data[at - 1 : at + 1]
    ]
    anywhere = st.integers(1, len(data) - 1)
    cuts = draw(st.sets(anywhere | st.sampled_from(line_ends), max_size=8))
    return [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)])]


@st.composite
def _answers(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Draw a transcript and the packets in which it comes, chunked or ended by the connection."""
    transcript = draw(_transcripts())
    if draw(st.booleans()):
        return transcript, [_STREAM_HEAD + b"\r\n", *draw(_pieces(transcript))]
    chunks = [b"%x\r\n%s\r\n" % (len(data), data) for data in draw(_pieces(transcript))]
    head = _STREAM_HEAD + b"transfer-encoding: chunked\r\n\r\n"
    return transcript, [head, *draw(_pieces(b"".join(chunks) + b"0\r\n\r\n"))]


async def test_row_52_any_cut_of_any_framing_leaves_the_bytes_alone(
    tmp_path: Path, tls: Authority | None
) -> None:
    """However an answer is chunked and wherever its packets are cut, its very bytes arrive."""
    packets: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        # The client has all it wants with [DONE], and may ask again before we are through.
        mine = tuple(packets)
        for packet in mine:
            await conversation.send(packet)
            # Turns of the loop in which the router reads what there is.
            for _ in range(3):
                await asyncio.sleep(0)
        if b"chunked" not in mine[0]:
            conversation.close()

    async def arrives(client: RawClient, transcript: bytes) -> None:
        await client.post("/v1/chat/completions", STREAMED)
        status, headers = await client.head()
        assert status == 200
        assert await client.body(headers) == transcript

    async with (
        one_provider(tmp_path, tls, script) as (_, signalbox),
        RawClient(signalbox.port) as client,
    ):
        loop = asyncio.get_running_loop()

        @settings(max_examples=60)
        @given(_answers())
        @example((_HALF_A_LINE_END[0], list(_HALF_A_LINE_END[1])))
        def any_answer(answer: tuple[bytes, list[bytes]]) -> None:
            transcript, packets[:] = answer
            asyncio.run_coroutine_threadsafe(arrives(client, transcript), loop).result(10)

        # Hypothesis calls what it tests; the router goes on in this thread meanwhile.
        await asyncio.to_thread(any_answer)


async def test_row_52_single_bytes_arrive_as_whole_events(
    tmp_path: Path, tls: Authority | None
) -> None:
    """A provider that dribbles single bytes gives the client whole events, one at a time."""
    single = (_TRANSCRIPT[position : position + 1] for position in range(len(_TRANSCRIPT)))
    async with one_provider(tmp_path, tls, streams(*single)) as (_, signalbox):
        assert await streamed(signalbox) == _TRANSCRIPT


@pytest.mark.parametrize(
    "transcript",
    [
        (DELTA + STOP + DONE).replace(b"\n", b"\r"),
        (DELTA + STOP + DONE).replace(b"\n", b"\r\n"),
        DELTA.replace(b"\n\n", b"\r\n\n") + STOP.replace(b"\n\n", b"\n\r") + DONE,
        b"\xef\xbb\xbf" + DELTA + STOP + DONE,
        b'data: {"choices":[{"index":0,\ndata:"delta":{},"finish_reason":"stop"}]}\n\n' + DONE,
        (DELTA + STOP + DONE).replace(b"data: ", b"data:"),
        b"event: message\nid: 7\nretry: 10\n" + DELTA + STOP + DONE,
        b"unknown: field\n\n" + DELTA + b": nothing\n\n" + STOP,
    ],
    ids=["CR", "CRLF", "mixed", "BOM", "many lines", "no space", "other fields", "unknown field"],
)
async def test_row_53_every_way_to_write_an_event_passes(
    tmp_path: Path, tls: Authority | None, transcript: bytes
) -> None:
    """Line ends, marks and fields are read as the standard says and passed as they came."""
    async with one_provider(tmp_path, tls, streams(transcript)) as (_, signalbox):
        assert await streamed(signalbox) == transcript


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x7f", "\ufeff"])
async def test_row_54_what_looks_like_a_line_end_is_none(
    tmp_path: Path, tls: Authority | None, character: str
) -> None:
    """Only CR and LF end a line; all else within a text passes unchanged."""
    delta = DELTA.replace(b'"x"', f'"a{character}b"'.encode())
    async with one_provider(tmp_path, tls, streams(delta, STOP, DONE)) as (_, signalbox):
        assert await streamed(signalbox) == delta + STOP + DONE


async def test_row_55_comments_pass_and_do_not_keep_a_stream_alive(
    tmp_path: Path, tls: Authority | None
) -> None:
    """Only events with data count against the idle deadline."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA)
        while True:
            await conversation.event(b": ping {oops\n\n")
            await asyncio.sleep(0.02)

    async with one_provider(tmp_path, tls, script, timeouts={"idle_s": 0.2}) as (_, signalbox):
        body = await streamed(signalbox)
    assert body.startswith(DELTA + b": ping {oops\n\n: ping {oops\n\n")
    assert last_error(body)["code"] == "upstream_idle_timeout"


async def test_row_55_a_flood_of_comments_is_no_answer(
    tmp_path: Path, tls: Authority | None
) -> None:
    """What is held until the first event is bounded; the flood ends as a bad gateway."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        while True:
            await conversation.event(b": " + b"x" * 65536 + b"\n\n")

    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(STREAMED)
    error = error_of(response.content)
    assert (response.status_code, error["code"]) == (502, "upstream_invalid_response")
    assert "comments" in error["message"]


def _breaks_off(how: str, seen: asyncio.Event) -> Script:
    """Return the script of a provider whose stream ends after one event in the way named."""

    async def script(conversation: Conversation) -> None:
        if how == "until close":
            await conversation.send(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            await conversation.send(DELTA)
        else:
            await conversation.begin_stream()
            await conversation.event(DELTA)
        await seen.wait()
        if how == "clean end":
            await conversation.end_stream()
        elif how == "half an event":
            await conversation.event(STOP[:20])
            await conversation.end_stream()
        elif how == "half a chunk":
            await conversation.send(b"50\r\n" + STOP[:20])
            conversation.close()
        elif how == "reset":
            conversation.reset()
        else:
            conversation.close()

    return script


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("clean end", id="row_56_clean_end"),
        pytest.param("half an event", id="row_56_half_an_event"),
        pytest.param("reset", id="row_57_reset"),
        pytest.param("half a chunk", id="row_57_half_a_chunk"),
        pytest.param("close", id="row_57_no_last_chunk"),
        pytest.param("until close", id="row_58_until_close"),
    ],
)
async def test_row_56_57_58_a_stream_that_breaks_off_says_so(
    tmp_path: Path, tls: Authority | None, how: str
) -> None:
    """However it ends, an answer without its end is told as truncated, and never as done."""
    seen = asyncio.Event()
    async with (
        one_provider(tmp_path, tls, _breaks_off(how, seen)) as (fm, signalbox),
        RawClient(signalbox.port) as client,
    ):
        await client.post("/v1/chat/completions", STREAMED)
        _, headers = await client.head()
        assert await client.chunk() == DELTA
        seen.set()
        frame = await client.body(headers)
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"\n\n")
    error = last_error(frame)
    assert (error["code"], error["type"]) == ("upstream_truncated", "server_error")
    assert frame.count(b"data:") == 1
    assert len(fm.seen) == 1


async def test_row_58_a_finished_answer_needs_no_done(
    tmp_path: Path, tls: Authority | None
) -> None:
    """Where every choice has its finish_reason, an end without `[DONE]` is an end."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        await conversation.send(DELTA + STOP)
        conversation.close()

    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        assert await streamed(signalbox) == DELTA + STOP


async def test_row_59_a_stream_that_stalls_ends_and_its_place_is_free(
    tmp_path: Path, tls: Authority | None
) -> None:
    """The idle deadline ends the stream, closes the connection and frees the slot."""
    left = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        if len(conversation.json["messages"]) == 1:
            await conversation.begin_stream()
            await conversation.event(DELTA)
            await conversation.left()
            left.set()
        else:
            await hello(conversation)

    lanes = {"fm": {"concurrency": 1, "queue": 5, "reserve_high": 0}}
    async with one_provider(tmp_path, tls, script, timeouts={"idle_s": 0.1}, lanes=lanes) as (
        _,
        signalbox,
    ):
        body = await streamed(signalbox)
        async with asyncio.timeout(1):
            await left.wait()
            again = await signalbox.chat({**HELLO, "messages": HELLO["messages"] * 2})  # type: ignore[operator]
    assert body.startswith(DELTA)
    assert last_error(body)["code"] == "upstream_idle_timeout"
    assert again.status_code == 200


@pytest.mark.parametrize("burst", [1, 5000])
async def test_row_60_a_stream_that_never_ends_is_ended(
    tmp_path: Path, tls: Authority | None, burst: int
) -> None:
    """Events that keep coming, slowly or in floods, do not outlive the total deadline."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        while True:
            await conversation.event(DELTA * burst)
            await asyncio.sleep(0.005)

    timeouts = {"total_s": 0.2, "idle_s": 0.15}
    async with one_provider(tmp_path, tls, script, timeouts=timeouts) as (_, signalbox):
        body = await streamed(signalbox)
    assert body.startswith(DELTA)
    assert last_error(body)["code"] == "upstream_total_timeout"
    assert b"[DONE]" not in body


@pytest.mark.parametrize("prefix", [b"", b"event: error\n"])
async def test_row_61_the_providers_own_error_passes_once_and_is_the_end(
    tmp_path: Path, tls: Authority | None, prefix: bytes
) -> None:
    """An error event is forwarded as it came, and nothing after it."""
    error = prefix + b'data: {"error":{"message":"out of memory"}}\n\n'
    async with one_provider(tmp_path, tls, streams(DELTA, error + DONE)) as (_, signalbox):
        assert await streamed(signalbox) == DELTA + error


@pytest.mark.parametrize(
    "error",
    [
        b'event: error\ndata: {"message":"out of memory"}\n\n',
        b'id: 1\r\nevent:error\r\ndata: {"type":"error"}\r\n\r\n',
        b'event: error\ndata: {"error":null}\n\n',
        b'data: {"message":"the name comes last"}\nevent: error\n\n',
    ],
)
@pytest.mark.parametrize("begun", [True, False])
async def test_row_61_an_error_by_name_alone_is_told_in_a_shape_that_clients_notice(
    tmp_path: Path, tls: Authority | None, error: bytes, begun: bool
) -> None:
    """OpenAI's clients look for an error object only, so the provider's event is replaced."""
    script = streams(*([DELTA] if begun else []), error, STOP, DONE)
    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(STREAMED)
    body = response.content
    if begun:
        assert body.startswith(DELTA + b'data: {"error"')
        assert last_error(body)["code"] == "upstream_invalid_frame"
    else:
        assert response.status_code == 502
        assert error_of(body)["code"] == "upstream_invalid_response"


@pytest.mark.parametrize(
    "event",
    [
        b"data: {oops\n\n",
        b"data: 1\n\n",
        b"data: \n\n",
        b"data: [DONE] \n\n",
        b'data: {"a":NaN}\n\n',
    ],
    ids=["cut", "no object", "empty", "done with a space", "NaN"],
)
async def test_row_62_an_event_that_is_not_json_ends_the_stream(
    tmp_path: Path, tls: Authority | None, event: bytes
) -> None:
    """What came before the bad event is the client's; the bad event is not."""
    async with one_provider(tmp_path, tls, streams(DELTA, DELTA + event + DELTA)) as (_, signalbox):
        body = await streamed(signalbox)
    assert body.startswith(DELTA + DELTA + b'data: {"error"')
    assert body.count(b"\n\n") == 3
    assert last_error(body)["code"] == "upstream_invalid_frame"


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
)
async def test_row_63_bad_utf_8_is_never_replaced(
    tmp_path: Path, tls: Authority | None, bad: bytes
) -> None:
    """Bytes that are no text end the stream instead of becoming other characters."""
    event = DELTA.replace(b'"x"', b'"a' + bad + b'b"')
    async with one_provider(tmp_path, tls, streams(DELTA, event, DONE)) as (_, signalbox):
        body = await streamed(signalbox)
    assert body.startswith(DELTA + b'data: {"error"')
    assert last_error(body)["code"] == "upstream_invalid_frame"
    assert bad not in body
    assert "\ufffd".encode() not in body


@pytest.mark.parametrize("how", ["one event", "one line without an end"])
async def test_row_64_an_event_without_an_end_is_cut_off(
    tmp_path: Path, tls: Authority | None, how: str
) -> None:
    """No event is held beyond 1 MiB, however long the provider goes on."""
    sent = 0

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.begin_stream()
        await conversation.event(DELTA)
        line = (
            b"x" * 65536 if how == "one line without an end" else b"data: " + b"x" * 65530 + b"\n"
        )
        while sent < 100 << 20:
            await conversation.event(line)
            sent += len(line)

    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        before = psutil.Process().memory_info().rss
        body = await streamed(signalbox)
        grown = psutil.Process().memory_info().rss - before
    assert body.startswith(DELTA + b'data: {"error"')
    assert last_error(body)["code"] == "upstream_invalid_frame"
    assert sent < 50 << 20
    assert grown < 30 << 20


@pytest.mark.parametrize("after", [DONE, DELTA, b"data: {oops\n\n", b"\x00\xff"])
@pytest.mark.parametrize("together", [True, False])
async def test_row_65_nothing_comes_after_done(
    tmp_path: Path, tls: Authority | None, after: bytes, together: bool
) -> None:
    """Whatever follows the first `[DONE]` is dropped, and the stream ends at once and well."""
    pieces = [DELTA, STOP + DONE + after] if together else [DELTA, STOP + DONE, after]
    async with one_provider(tmp_path, tls, streams(*pieces)) as (_, signalbox):
        assert await streamed(signalbox) == DELTA + STOP + DONE


async def test_row_65_a_connection_on_which_a_stream_was_ended_is_used_again(
    tmp_path: Path, tls: Authority | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the body may come after [DONE], and the client has its answer before it does."""
    monkeypatch.setattr(pump, "_LET_END_S", 5.0)
    answered = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA + STOP + DONE)
        await answered.wait()
        answered.clear()
        await conversation.end_stream()

    async with one_provider(tmp_path, tls, script) as (fm, signalbox):
        for _ in range(3):
            assert await streamed(signalbox) == DELTA + STOP + DONE
            answered.set()
            await idle(signalbox.router)
        assert (len(fm.seen), fm.connections) == (3, 1)


async def test_row_65_done_ends_a_stream_that_the_provider_leaves_open(
    tmp_path: Path, tls: Authority | None
) -> None:
    """The client does not wait for a provider that forgets to end its body."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA + STOP + DONE)
        await conversation.left()

    async with one_provider(tmp_path, tls, script) as (_, signalbox), asyncio.timeout(2):
        assert await streamed(signalbox) == DELTA + STOP + DONE


@pytest.mark.parametrize(
    "pieces", [(DONE,), (b": hi\n\n", DONE), (), (b": hi\n\n",), (DELTA[:30],)]
)
async def test_row_65_a_stream_without_a_single_chunk_is_no_answer(
    tmp_path: Path, tls: Authority | None, pieces: tuple[bytes, ...]
) -> None:
    """`[DONE]` alone would look like a model that had nothing to say."""
    async with one_provider(tmp_path, tls, streams(*pieces)) as (_, signalbox):
        response = await signalbox.chat(STREAMED)
    assert response.status_code == 502
    assert error_of(response.content)["code"] == "upstream_invalid_response"


async def test_row_66_a_chunk_of_usage_alone_passes(tmp_path: Path, tls: Authority | None) -> None:
    """A chunk with no choices, as usage has, is a chunk like any other."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    asked = {**STREAMED, "stream_options": {"include_usage": True}}
    async with one_provider(tmp_path, tls, streams(DELTA, STOP, usage, DONE)) as (fm, signalbox):
        assert await streamed(signalbox, asked) == DELTA + STOP + usage + DONE
    assert fm.seen[0].json["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("how", ["reset", "clean end", "error", "no JSON"])
async def test_row_67_nothing_is_tried_again_after_the_first_byte(
    tmp_path: Path, tls: Authority | None, how: str
) -> None:
    """Once an event has gone out no other provider is asked, and the first not twice."""
    seen = asyncio.Event()
    seen.set()
    bad = {"error": b'data: {"error":{"message":"no"}}\n\n', "no JSON": b"data: {oops\n\n"}
    script = streams(DELTA, bad[how]) if how in bad else _breaks_off(how, seen)
    async with (
        two_providers(tmp_path, tls, script, streams(DELTA, STOP, DONE)) as (fm, other, signalbox),
        RawClient(signalbox.port) as client,
    ):
        await client.post("/v1/chat/completions", STREAMED)
        _, headers = await client.head()
        body = await client.body(headers)
    assert headers["x-signalbox-attempts"] == "1"
    assert (len(fm.seen), len(other.seen)) == (1, 0)
    assert body.startswith(DELTA)
    assert last_error(body)
    assert b"[DONE]" not in body


@pytest.mark.parametrize(
    ("asked", "kind", "body"),
    [
        (STREAMED, "application/json", b'{"choices":[]}'),
        (STREAMED, "text/html", b"<html>"),
        (STREAMED, "application/x-ndjson", b'{"choices":[]}\n'),
        (HELLO, "text/event-stream", DELTA + STOP + DONE),
    ],
)
async def test_row_68_json_for_a_stream_and_the_reverse_are_refused(
    tmp_path: Path, tls: Authority | None, asked: dict[str, Any], kind: str, body: bytes
) -> None:
    """An answer of the wrong sort is a bad gateway, never a stream that cannot be parsed."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(body, kind=kind)

    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(asked)
    assert response.status_code == 502
    assert response.headers["content-type"] == "application/json"
    assert error_of(response.content)["code"] == "upstream_invalid_response"


async def test_row_69_tool_calls_in_any_order_pass_byte_for_byte(
    tmp_path: Path, tls: Authority | None
) -> None:
    """Deltas of several tool calls, interleaved and out of order, are nobody's to sort."""
    deltas = [
        b'data: {"choices":[{"index":%d,"delta":{"tool_calls":[{"index":%d, "function" :'
        b'{"arguments":"{\\"a\\":"}}]},"finish_reason":null}]}\n\n' % (choice, call)
        for choice, call in [(1, 1), (0, 1), (0, 0), (1, 0), (0, 1)]
    ]
    stops = [
        b'data: {"choices":[{"index":%d,"delta":{},"finish_reason":"tool_calls"}]}\n\n' % choice
        for choice in (1, 0)
    ]
    transcript = b"".join([*deltas, *stops, DONE])
    async with one_provider(tmp_path, tls, streams(*deltas, *stops, DONE)) as (_, signalbox):
        assert await streamed(signalbox) == transcript


async def test_row_70_the_first_event_is_with_the_client_before_the_second_is_sent(
    tmp_path: Path,
    tls: Authority | None,
) -> None:
    """Nothing between provider and client holds an event back."""
    acknowledged = asyncio.Queue[None]()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for event in (DELTA, _UNICODE, STOP):
            await conversation.event(event)
            await acknowledged.get()
        await conversation.event(DONE)
        await conversation.end_stream()

    async with (
        one_provider(tmp_path, tls, script) as (_, signalbox),
        RawClient(signalbox.port) as client,
    ):
        await client.post("/v1/chat/completions", STREAMED)
        _, headers = await client.head()
        for event in (DELTA, _UNICODE, STOP):
            assert await client.chunk() == event
            acknowledged.put_nowait(None)
        assert await client.body(headers) == DONE


async def _stalls(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.event(DELTA)
    await conversation.left()


async def _resets(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.event(DELTA)
    conversation.reset()


async def _leaves_within_a_chunk(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.event(DELTA)
    await conversation.send(b"ff\r\ndata: ")
    conversation.close()


async def _closes(conversation: Conversation) -> None:
    await conversation.send(_STREAM_HEAD + b"\r\n" + DELTA)
    conversation.close()


async def _drips(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.event(DELTA)
    while True:
        await asyncio.sleep(0.02)
        await conversation.event(_EMPTY_DELTA)


def _error_event(conversation: Conversation) -> Any:
    return streams(DELTA, b'data: {"error":{"message":"no","code":"own_code"}}\n\n')(conversation)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (streams(DELTA), "upstream_truncated"),
        (streams(DELTA, STOP[:20]), "upstream_truncated"),
        (streams(DELTA, b"data: {oops\n\n"), "upstream_invalid_frame"),
        (streams(DELTA, DELTA.replace(b'"x"', b'"\xff"')), "upstream_invalid_frame"),
        (streams(DELTA, b"event: error\ndata: {}\n\n"), "upstream_invalid_frame"),
        (streams(DELTA, b"data: " + b"x" * (2 << 20)), "upstream_invalid_frame"),
        (_resets, "upstream_truncated"),
        (_leaves_within_a_chunk, "upstream_truncated"),
        (_closes, "upstream_truncated"),
        (_stalls, "upstream_idle_timeout"),
        (_drips, "upstream_total_timeout"),
        (_error_event, "own_code"),
    ],
    ids=[
        *("truncated", "half an event", "no JSON", "bad UTF-8", "named error", "endless event"),
        *("reset", "half a chunk", "closed", "stall", "drip", "own error"),
    ],
)
async def test_rows_56_to_64_the_openai_sdk_raises_an_error_with_the_code(
    tmp_path: Path, tls: Authority | None, script: Script, code: str
) -> None:
    """OpenAI's own client gets what came before, then APIError, never a short answer."""
    deltas = []
    async with (
        one_provider(tmp_path, tls, script, timeouts={"idle_s": 0.2, "total_s": 0.5}) as (
            _,
            signalbox,
        ),
        openai.AsyncOpenAI(base_url=signalbox.url, api_key="x", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model="text", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError) as raised:
            async for chunk in stream:
                deltas.append(chunk.choices[0].delta.content)  # noqa: PERF401 kept when it raises
        await stream.close()
    assert "".join(filter(None, deltas)) == "x"
    assert type(raised.value) is openai.APIError
    assert raised.value.code == code


@pytest.mark.parametrize(
    "script",
    [
        streams(DONE),
        streams(),
        streams(b": nothing\n\n"),
        streams(b'data: {"error":{"message":"no","code":"own_code"}}\n\n'),
        hello,
    ],
    ids=["nothing but [DONE]", "nothing", "a comment", "own error", "JSON"],
)
async def test_rows_65_and_68_the_openai_sdk_raises_before_it_has_a_stream(
    tmp_path: Path, tls: Authority | None, script: Script
) -> None:
    """What fails before its first event is a status that OpenAI's own client raises at once."""
    async with (
        one_provider(tmp_path, tls, script) as (_, signalbox),
        openai.AsyncOpenAI(base_url=signalbox.url, api_key="x", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(
                model="text", messages=[{"role": "user", "content": "hi"}], stream=True
            )
    assert raised.value.status_code == 502
    assert raised.value.code in {"upstream_invalid_response", "own_code"}
