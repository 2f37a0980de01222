"""Server-sent events from bytes cut anywhere, and how their streams end."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import StreamFailed
from router.sse import ChatStream, Ending, EventSplitter, TypedStream, payload_of
from router.usage import Usage

EVENTS = [
    b'data: {"a":"\xc3\xa4\xe2\x80\xa8\xc2\x85"}\n\n',
    b": ping\n\n",
    b"event: x\r\ndata: 1\r\ndata: 2\r\n\r\n",
    b"data:tight\r\r",
    b"id: 7\ndata: mixed\r\n\n",
    b"data\n\n",
    b"data: [DONE]\n\n",
]
TRANSCRIPT = b"".join(EVENTS)


@given(st.lists(st.integers(0, len(TRANSCRIPT)), max_size=12))
def test_events_come_out_whole_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    """Any cutting of a transcript gives the same payloads and not one byte is lost."""
    splitter = EventSplitter()
    borders = [0, *sorted(cuts), len(TRANSCRIPT)]
    out = [
        event for start, end in pairwise(borders) for event in splitter.feed(TRANSCRIPT[start:end])
    ]
    assert b"".join(out) + splitter.rest == TRANSCRIPT
    assert splitter.rest == b""
    assert [payload for event in out if (payload := payload_of(event)) is not None] == [
        b'{"a":"\xc3\xa4\xe2\x80\xa8\xc2\x85"}',
        b"1\n2",
        b"tight",
        b"mixed",
        b"",
        b"[DONE]",
    ]


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"data: 1", b": c", b"x"]), max_size=20),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_any_lines_are_cut_into_the_events_that_the_standard_sees(
    parts: list[bytes], cuts: list[int]
) -> None:
    """Whatever ends a line, and wherever the bytes are cut, the payloads are the standard's."""
    data = b"".join(parts)
    blocks = re.split(b"\n\n+", data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").lstrip(b"\n"))
    splitter = EventSplitter()
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    out = [event for start, end in pairwise(borders) for event in splitter.feed(data[start:end])]
    assert b"".join(out) + splitter.rest == data
    # The last block has no blank line after it as yet.
    payloads = [payload_of(event) for event in out], [payload_of(block) for block in blocks[:-1]]
    assert [each for each in payloads[0] if each is not None] == [
        each for each in payloads[1] if each is not None
    ]


def test_an_event_is_out_as_soon_as_its_blank_line_is_in() -> None:
    """The last byte of the blank line releases the event, not a later one."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: x\n") == []
    assert splitter.feed(b"\n") == [b"data: x\n\n"]


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    """A line that grows over the cap fails the stream."""
    splitter = EventSplitter(max_event=100)
    splitter.feed(b"x" * 100)
    with pytest.raises(StreamFailed) as failure:
        splitter.feed(b"x")
    assert failure.value.code == "upstream_invalid_frame"


def _ending(*payloads: bytes) -> Ending:
    stream = ChatStream()
    for payload in payloads:
        stream.observe(payload)
    return stream.ending


OPEN = b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}'
STOP = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
OTHER = b'{"choices":[{"index":1,"delta":{"content":"x"}}]}'
OTHER_STOP = b'{"choices":[{"index":1,"delta":{},"finish_reason":"length"}]}'
USAGE = b'{"choices":[],"usage":{"total_tokens":3}}'


@pytest.mark.parametrize(
    ("payloads", "ending"),
    [
        ([], Ending.OPEN),
        ([OPEN], Ending.OPEN),
        ([OPEN, STOP], Ending.COMPLETE),
        ([OPEN, STOP, USAGE], Ending.COMPLETE),
        ([OPEN, OTHER, STOP], Ending.OPEN),
        ([OPEN, OTHER, STOP, OTHER_STOP], Ending.COMPLETE),
        ([OPEN, b"[DONE]"], Ending.COMPLETE),
        ([USAGE], Ending.OPEN),
        ([OPEN, b'{"error":{"message":"x"}}'], Ending.FAILED),
        ([b'{"choices":"odd"}', b'{"choices":[1]}'], Ending.OPEN),
    ],
)
def test_a_whole_answer_is_told_from_a_cut_one(payloads: list[bytes], ending: Ending) -> None:
    """Complete is [DONE], or a finish_reason for every choice that was seen."""
    assert _ending(*payloads) is ending


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"<html>", b"[1]", b"NaN", b'{"a":"\xff"}', b"[" * 5000]
)
def test_what_is_not_a_json_object_fails_the_stream(payload: bytes) -> None:
    """Bad JSON, bad UTF-8 and anything but an object is an invalid frame."""
    with pytest.raises(StreamFailed) as failure:
        ChatStream().observe(payload)
    assert failure.value.code == "upstream_invalid_frame"


def test_a_byte_order_mark_hides_no_event() -> None:
    """What follows it is looked at like any other event."""
    assert payload_of(b'\xef\xbb\xbfdata: {"error":1}\n\n') == b'{"error":1}'


def _typed(stream: TypedStream, *kinds: str) -> TypedStream:
    for kind in kinds:
        stream.observe_event(b'event: %b\ndata: {"type":"%b"}\n\n' % (2 * (kind.encode(),)))
    return stream


@pytest.mark.parametrize(
    ("kinds", "ending", "over"),
    [
        ((), Ending.OPEN, False),
        (("message_start", "message_delta"), Ending.OPEN, False),
        (("message_start", "message_stop"), Ending.COMPLETE, True),
    ],
)
def test_a_stream_of_typed_events_ends_with_its_last_type(
    kinds: tuple[str, ...], ending: Ending, over: bool
) -> None:
    """And not because its bytes do."""
    stream = _typed(TypedStream("message_stop"), *kinds)
    assert (stream.ending, stream.said_done) == (ending, over)


def test_a_stream_of_several_results_goes_on_after_the_first() -> None:
    """It is whole with one, and may hold more."""
    stream = _typed(TypedStream("x.completed", goes_on=True), "x.completed")
    assert (stream.ending, stream.said_done) == (Ending.COMPLETE, False)


def test_an_event_of_type_error_is_one() -> None:
    """Whether or not it holds OpenAI's object."""
    stream = TypedStream("end")
    stream.observe_event(b'event: error\ndata: {"type":"error","message":"no"}\n\n')
    assert stream.ending is Ending.FAILED


def test_a_ping_is_no_sign_of_life() -> None:
    """It passes, and the deadline runs on."""
    stream = TypedStream("end")
    assert not stream.observe_event(b'event: ping\ndata: {"type": "ping"}\n\n')
    assert stream.observe_event(b'data: {"type":"delta","sequence_number":4}\n\n')
    assert stream.number == 5


MESSAGE_START = (
    b'{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}'
)
CREATED = b'{"type":"response.created","response":{"usage":null}}'


@pytest.mark.parametrize(
    ("payloads", "usage", "checked"),
    [
        ([MESSAGE_START], None, []),
        ([MESSAGE_START, b'{"usage":{"output_tokens":15}}'], (25, 15), [(0, 15)]),
        (
            [MESSAGE_START, b'{"usage":{"input_tokens":24,"output_tokens":15}}'],
            (24, 15),
            [(24, 15)],
        ),
        ([CREATED], None, []),
        (
            [CREATED, b'{"response":{"usage":{"input_tokens":7,"output_tokens":2}}}'],
            (7, 2),
            [(7, 2)],
        ),
        (
            [b'{"usage":{"type":"tokens","input_tokens":14,"output_tokens":45}}'],
            (14, 45),
            [(14, 45)],
        ),
        ([b'{"usage":7,"response":"x","message":[]}'], None, []),
    ],
)
def test_a_stream_of_typed_events_tells_its_tokens_at_its_end(
    payloads: list[bytes], usage: object, checked: list[object]
) -> None:
    """What a message begins with is an estimate at some servers: nothing is concluded from it."""
    stream, seen = TypedStream("end"), list[Usage]()
    stream.check_usage = seen.append
    for payload in payloads:
        stream.observe(payload)
    assert stream.usage == usage
    assert seen == checked
