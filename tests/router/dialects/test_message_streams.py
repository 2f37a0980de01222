"""Streams of chat completions as streams of messages: the same in the end as whole answers."""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dialects.messages import translate
from router.errors import StreamFailed
from tests.router.dialects.golden_messages import ANSWERED, Answered
from tests.router.dialects.message_stream import accumulated, accumulated_by_sdk, events_of
from tests.router.dialects.test_messages import HI, asked, completion

USAGE = {"prompt_tokens": 9, "completion_tokens": 4}


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return a chunk of a chat's stream."""
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(text: Any = None, index: int | None = 0, **more: Any) -> dict[str, Any]:
    """Return a chunk with a piece of a call; `id` and `name` stand where the server has them."""
    function = {"arguments": text, **({"name": more.pop("name")} if "name" in more else {})}
    piece = {"function": function, **({} if index is None else {"index": index}), **more}
    return chunk(tool_calls=[piece])


def streamed(*chunks: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Return the events that chunks become."""
    made = translate({**HI, **fields}, request_id="r1", now=0)
    return events_of(b"".join(made.feed(each) for each in chunks) + made.finish())


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Return what each event brings."""
    return [
        (event.get("delta", {}).get("type") or event["type"]).removeprefix("content_block_")
        for event in events
    ]


@pytest.mark.parametrize("row", ANSWERED, ids=lambda row: row.feature)
def test_a_stream_ends_as_the_whole_answer(row: Answered) -> None:
    """Each row of the table in one chunk, as some servers send it."""
    chat = completion(row)
    whole = asked(**row.fields).answer(chat)
    choice = {**chat["choices"][0], "delta": chat["choices"][0].pop("message")}
    events = streamed({**chat, "choices": [choice]}, **row.fields)
    assert accumulated(events) == whole


def test_the_events_of_an_answer() -> None:
    """In the published order; the tokens come with the reason why it ended."""
    events = streamed(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="Hm", content=None),
        chunk(reasoning_content="."),
        chunk(content="See"),
        chunk(content="."),
        call("", id="c1", name="look", type="function"),
        call('{"at"'),
        call(':"sea"}'),
        chunk("tool_calls"),
        {"choices": [], "usage": USAGE},
    )
    assert kinds(events) == [
        "message_start",
        *("start", "thinking_delta", "thinking_delta", "signature_delta", "stop"),
        *("start", "text_delta", "text_delta", "stop"),
        *("start", "input_json_delta", "input_json_delta", "stop"),
        *("message_delta", "message_stop"),
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"]["input_tokens"] == 9
    assert events[-2]["usage"]["output_tokens"] == 4


def test_each_piece_goes_out_as_it_comes() -> None:
    """Nothing waits that could be sent."""
    made = asked()
    assert kinds(events_of(made.feed(chunk(role="assistant")))) == ["message_start"]
    assert kinds(events_of(made.feed(chunk(content="a")))) == ["start", "text_delta"]
    assert kinds(events_of(made.feed(chunk(content="b")))) == ["text_delta"]
    # There may be more of a name until something else comes.
    assert made.feed(call(None, id="c1", name="f")) == b""
    begun = events_of(made.feed(call(' {"a":1')))
    assert kinds(begun) == ["stop", "start", "input_json_delta"]
    assert made.feed(call("")) == b""
    assert kinds(events_of(made.feed(call("}")))) == ["input_json_delta"]
    # The first is complete, so the second need not wait.
    begun = events_of(made.feed(call('{"b":', 1, id="c2", name="f")))
    assert kinds(begun) == ["stop", "start", "input_json_delta"]
    assert made.feed(chunk("tool_calls")) == b""
    assert made.number == 0


def test_calls_that_come_by_turns_wait_for_each_other() -> None:
    """A block is never gone on with once another has begun."""
    events = streamed(
        call('{"a"', 0, id="c1", name="f"),
        call("", 1, id="c2", name="g"),
        call(":1}", 0),
        call('{"b":2}', 1),
        chunk(content="Well."),
        chunk("tool_calls"),
    )
    assert accumulated(events)["content"] == [
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {"b": 2}},
        {"type": "text", "text": "Well."},
    ]


def test_what_waits_goes_on_as_soon_as_it_can() -> None:
    """A call that is complete ends when the next thing begins, and so does one that had waited."""
    made = asked()
    made.feed(call('{"a"', 0, id="c1", name="f"))
    assert made.feed(call('{"b":2}', 1, id="c2", name="g")) == b""
    assert kinds(events_of(made.feed(call(":1}", 0)))) == ["input_json_delta"]
    assert kinds(events_of(made.feed(chunk(content="Well.")))) == [
        *("stop", "start", "input_json_delta", "stop", "start", "text_delta")
    ]


def test_a_call_is_looked_at_again_when_more_of_it_has_come() -> None:
    """It was not whole when something else came, and it is when the next thing comes."""
    made = asked()
    made.feed(call('{"a":{}', 0, id="c1", name="f"))
    assert made.feed(chunk(content="Well.")) == b""
    made.feed(call("}", 0))
    assert kinds(events_of(made.feed(chunk(reasoning="Hm.")))) == [
        *("stop", "start", "text_delta", "stop", "start", "thinking_delta")
    ]


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        # No arguments in each way that there is.
        ([call(None, 0, id="x", name="f")], [("x", "f", {})]),
        ([call(" ", 0, id="x", name="f"), call("null", 0)], [("x", "f", {})]),
        # White space around them, and after their end.
        (
            [call("\n {} ", 0, id="x", name="f"), call("{}", 1, id="y", name="f"), call(" ", 0)],
            [("x", "f", {}), ("y", "f", {})],
        ),
    ],
)
def test_arguments_are_read_as_they_are_meant(
    chunks: list[dict[str, Any]], calls: list[tuple[str, str, dict[str, Any]]]
) -> None:
    """Nothing is spelled in many ways, and white space is nothing."""
    message = accumulated(streamed(*chunks, chunk("stop")))
    assert [(each["id"], each["name"], each["input"]) for each in message["content"]] == calls
    assert message["stop_reason"] == "tool_use"


def test_a_call_without_arguments_says_so() -> None:
    """Some clients cannot read nothing as JSON."""
    events = streamed(call("", id="c1", name="f"), chunk("tool_calls"))
    assert events[2]["delta"] == {"type": "input_json_delta", "partial_json": "{}"}


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(content=1)],
        [call("{}", id="x")],
        [call("[]", id="x", name="f")],
        [call('{"a"', id="x", name="f")],
        [call("{}", 0, id="x", name="f"), call("{}", 1, id="y", name="f"), call("!", 0)],
    ],
)
def test_what_is_no_stream_breaks_it(chunks: list[dict[str, Any]]) -> None:
    """The client gets an error, and no end."""
    with pytest.raises(StreamFailed) as failed:
        streamed(*chunks)
    assert failed.value.code == "upstream_invalid_frame"


def test_a_stream_of_nothing_is_an_empty_message() -> None:
    """It has a beginning and an end."""
    assert kinds(streamed()) == ["message_start", "message_delta", "message_stop"]


_WORDS = st.text(min_size=1, max_size=8)
_INPUTS = st.dictionaries(
    st.text(max_size=4), st.integers(-(2**53), 2**53) | st.text(max_size=4) | st.none(), max_size=3
)
_MESSAGES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "reasoning_content": st.none() | _WORDS,
        "content": st.none() | _WORDS,
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {
                    "id": st.none() | st.sampled_from(["x", "y"]),
                    "function": st.fixed_dictionaries(
                        {
                            "name": st.sampled_from(["f", "g"]),
                            "arguments": _INPUTS.map(json.dumps) | st.just(""),
                        }
                    ),
                }
            ),
            max_size=3,
        ),
    }
)
_FINISHES = st.sampled_from(["stop", "tool_calls", "length", "content_filter"])


def _cut(draw: st.DrawFn, text: str | None) -> list[str]:
    """Return the pieces of a text, empty ones too."""
    text = text or ""
    places = draw(st.lists(st.integers(0, len(text)), max_size=4).map(sorted))
    edges = [0, *places, len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(edges)]


@st.composite
def _streams(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
    """Return a message, its chunks, and whether they come in its own order."""
    message = draw(_MESSAGES)
    ropes = [
        [chunk(**{name: piece}) for piece in _cut(draw, message[name])]
        for name in ("reasoning_content", "content")
    ]
    for index, each in enumerate(message["tool_calls"]):
        function = each["function"]
        first, *rest = _cut(draw, function["arguments"])
        begin = {"id": each["id"], "name": function["name"]}
        ropes.append([call(first, index, **begin), *(call(piece, index) for piece in rest)])
    in_order = draw(st.booleans())
    if in_order:
        return message, [piece for rope in ropes for piece in rope], True
    chunks = []
    began = 0
    while any(ropes):
        # Calls begin in their order, and go on in any.
        open_ = [i for i, rope in enumerate(ropes) if rope and i <= began + 2]
        which = draw(st.sampled_from(open_))
        began = max(began, which - 1)
        chunks.append(ropes[which].pop(0))
    return message, chunks, False


def _by_kind(content: list[dict[str, Any]]) -> tuple[str, str, list[dict[str, Any]]]:
    """Return what was thought, what was said, and the calls by their ids."""
    thought = "".join(block.get("thinking", "") for block in content)
    said = "".join(block.get("text", "") for block in content)
    return thought, said, [block for block in content if block["type"] == "tool_use"]


@given(_streams(), _FINISHES, st.booleans())
def test_any_stream_ends_as_the_whole_answer(
    made: tuple[dict[str, Any], list[dict[str, Any]], bool],
    finish: str,
    usage_apart: bool,
) -> None:
    """However it is cut, and whatever comes by turns; the SDK makes the same of it."""
    message, chunks, in_order = made
    whole = asked().answer(
        {
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": USAGE,
        }
    )
    last = chunk(finish)
    tail = [last, {"choices": [], "usage": USAGE}] if usage_apart else [{**last, "usage": USAGE}]
    events = streamed(chunk(role="assistant", content=None), *chunks, *tail)
    told = accumulated([json.loads(json.dumps(event)) for event in events])
    by_sdk = accumulated_by_sdk(events)
    if in_order:
        assert told == whole
        assert by_sdk == whole
    else:
        assert _by_kind(told["content"]) == _by_kind(whole["content"])
        assert {**told, "content": []} == {**whole, "content": []}


def seconds(work: Callable[[], object]) -> float:
    """Return how long the processor has worked."""
    since = time.process_time()
    work()
    return time.process_time() - since


def test_long_arguments_cost_what_they_are_long() -> None:
    """A file that is written in one call comes in a hundred thousand pieces."""
    made = asked()
    made.feed(call('{"text":"', name="write", id="c1"))
    piece = call("0123456789" * 3)

    def feed() -> None:
        for _ in range(20_000):
            made.feed(piece)

    first = seconds(feed)
    for _ in range(3):
        feed()
    assert seconds(feed) < 3 * first


def test_half_a_call_is_not_read_anew_for_each_block_that_waits() -> None:
    """What has not changed since is not whole yet either."""
    made = asked()
    made.feed(call('{"a":[' + "{}," * 300_000 + "{}", name="f", id="c1"))

    def wait() -> None:
        for _ in range(100):
            made.feed(chunk(content="a"))
            made.feed(chunk(reasoning="b"))

    assert seconds(wait) < 1
