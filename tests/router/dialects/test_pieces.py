"""What chat servers answer, in all the ways that they have, read as pieces."""

import itertools
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dialects.calls import Called
from router.dialects.pieces import Piece, Reader, Said
from router.errors import StreamFailed

TOKEN = {"token": "a", "logprob": -1, "bytes": [97], "top_logprobs": []}


def chunk(delta: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, **more}]}


def whole(message: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, **more}]}


def call(
    arguments: Any = None, index: Any = 0, *, name: Any = None, own: Any = None, **more: Any
) -> dict[str, Any]:
    """Return a piece of a call; what is None is left out, but for the arguments."""
    told = {"index": index, "id": own, "function": {"name": name, "arguments": arguments}}
    return {**{key: each for key, each in told.items() if each is not None}, **more}


def read(*chunks: dict[str, Any], logprobs: bool = False) -> list[Piece]:
    """Return the pieces of a stream, and those of its end."""
    reader = Reader("c", logprobs=logprobs)
    pieces = [piece for each in chunks for piece in reader.chunk(each)]
    return [*pieces, *reader.end()]


def calls_of(pieces: list[Piece]) -> list[tuple[str, str, str]]:
    """Return the calls with their ids, names and arguments, in the order in which they began."""
    told: dict[int, list[str]] = {}
    for piece in pieces:
        if isinstance(piece, Called):
            begun = told.setdefault(piece.call.number, [piece.call.id, piece.call.name, ""])
            assert begun[:2] == [piece.call.id, piece.call.name]
            begun[2] += piece.text
    assert list(told) == list(range(len(told)))
    return [(own, name, arguments) for own, name, arguments in told.values()]


def said_by(pieces: list[Piece]) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in pieces if isinstance(piece, Said)]


A = ("a", "look", '{"at":1}')
B = ("b", "look", "{}")


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        pytest.param([[call('{"at":1}', own="a", name="look")]], [A], id="whole"),
        pytest.param(
            [[call("", own="a", name="look")], [call('{"at"')], [call(":1}")]], [A], id="cut"
        ),
        pytest.param(
            [[call("", own="a", name="lo")], [call('{"at":1}', name="ok")]], [A], id="cut in a name"
        ),
        pytest.param(
            [
                [call("", name="lo")],
                [call('{"at"', name="ok", own="a")],
                [call(":1}", name="look", own="a")],
            ],
            [A],
            id="id late",
        ),
        pytest.param(
            [[call("", own="a", name="look")], [call('{"at":1}', own="a", name="look")]],
            [A],
            id="name again before arguments",
        ),
        pytest.param(
            [[call('{"at"', name="look", own="a")], [call(":1}", name="look")]],
            [A],
            id="name again within arguments",
        ),
        pytest.param(
            [[call('{"at"', name="look", own="a")], [call(":1}", own="z")]],
            [A],
            id="another id with each piece",
        ),
        pytest.param(
            [
                [call("", 0, own="a", name="look"), call("{", 1, own="b", name="look")],
                [call('{"at":', 0)],
                [call("}", 1), call("1}", 0)],
            ],
            [A, B],
            id="mixed",
        ),
        pytest.param(
            [[call('{"at":1}', own="a", name="look")], [call("{}", own="b", name="look")]],
            [A, B],
            id="all of one index, told apart by ids",
        ),
        pytest.param(
            [[call('{"at":1}', name="look")], [call(" {}", name="look")]],
            [("c_0", "look", '{"at":1}'), ("c_1", "look", " {}")],
            id="all of one index, told apart by their arguments",
        ),
        pytest.param(
            [
                [
                    call('{"at":1}', None, own="a", name="look"),
                    call("{}", None, own="b", name="look"),
                ]
            ],
            [A, B],
            id="without an index, together",
        ),
        pytest.param(
            [
                [call('{"at":1}', None, own="a", name="look")],
                [call("{}", None, own="b", name="look")],
            ],
            [A, B],
            id="without an index, one after the other",
        ),
        pytest.param(
            [[call('{"at"', None, own="a", name="look")], [call(":1}", None)]],
            [A],
            id="without an index, cut",
        ),
        pytest.param(
            [[call("1", {}, name="f")], [call("2", True, name="g")]],
            [("c_0", "f", "1"), ("c_1", "g", "2")],
            id="an index that is no number",
        ),
        pytest.param(
            [[call("1", None, name="f")], [call("2", None, name="g")]],
            [("c_0", "f", "1"), ("c_1", "g", "2")],
            id="without an index or an id",
        ),
        pytest.param(
            [[call('{"at"', 0)], [call("{}", 1, name="g")], [call(":1}", 0, name="f")]],
            [("c_0", "f", '{"at":1}'), ("c_1", "g", "{}")],
            id="name after arguments",
        ),
        pytest.param(
            [[call("{}", 0, own="a", name="f")], [call("{}", 1, own="a", name="g")]],
            [("a", "f", "{}"), ("c_1", "g", "{}")],
            id="one id for two",
        ),
        pytest.param(
            [[call("", 0, name="f"), call("", 1, own="c_0", name="g"), call("", 2, name="h")]],
            [("c_0", "f", ""), ("c_1", "g", ""), ("c_2", "h", "")],
            id="an id that was ours before",
        ),
        pytest.param(
            [
                [
                    call("", 0, own="c_1", name="f"),
                    call("", 1, name="g"),
                    call("", 2, own="c_3", name="h"),
                ]
            ],
            [("c_1", "f", ""), ("c_2", "g", ""), ("c_3", "h", "")],
            id="an id that would be ours",
        ),
    ],
)
def test_calls_are_told_apart_however_they_come(
    chunks: list[list[dict[str, Any]]], calls: list[tuple[str, str, str]]
) -> None:
    """Cut, mixed, repeated, counted or not; their ids are different in any case."""
    assert calls_of(read(*(chunk({"tool_calls": each}) for each in chunks))) == calls


def test_each_call_of_a_whole_answer_is_one() -> None:
    """Also where a server gives all of them one index and no id."""
    calls = [call('{"a"', name="f"), call("}", name="f"), call("", own="c_2", name="f")]
    made = calls_of(Reader("c").whole(whole({"tool_calls": calls})))
    assert made == [("c_0", "f", '{"a"'), ("c_1", "f", "}"), ("c_2", "f", "")]


def test_a_call_begins_when_its_name_is_whole() -> None:
    """That is with its arguments, or when something else is said."""
    reader = Reader("c")
    assert reader.chunk(chunk({"tool_calls": [call("", name="f")]})) == []
    assert calls_of(reader.chunk(chunk({"tool_calls": [call("{", name="g")]}))) == [
        ("c_0", "fg", "{")
    ]
    assert reader.chunk(chunk({"tool_calls": [call("", 1, name="h")]})) == []
    called, said = reader.chunk(chunk({"content": "x"}))
    assert isinstance(called, Called)
    assert (called.call.name, said) == ("h", Said("text", "x", []))
    assert reader.end() == []


@pytest.mark.parametrize("part", ["message", "delta"])
def test_others_choices_are_nobodys(part: str) -> None:
    """One answer was asked for: the first, wherever it stands."""
    choices = [
        {"index": 1, part: {"content": "b"}, "finish_reason": "length"},
        {"index": 0, part: {"content": "a"}, "finish_reason": "stop"},
        {"index": 0, part: {"content": "c"}, "finish_reason": "length"},
    ]
    reader = Reader("c")
    pieces = reader.whole if part == "message" else reader.chunk
    assert said_by(pieces({"choices": choices})) == [("text", "a")]
    assert (reader.finish, reader.was_cut) == ("stop", False)
    without = [{part: {"content": "a"}}, {part: {"content": "b"}}]
    assert said_by(pieces({"choices": without})) == [("text", "a")]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [{"index": 1, "delta": {"content": "b"}}]},
        {"choices": [{"index": 0}]},
        chunk(None),
        chunk({"role": "assistant", "content": None, "tool_calls": None, "refusal": None}),
        chunk({"content": "", "reasoning": "", "tool_calls": []}, logprobs=None),
    ],
)
def test_some_chunks_say_nothing(told: dict[str, Any]) -> None:
    """Fields are null, empty or not there."""
    assert read(told, logprobs=True) == []


def test_thoughts_have_two_names() -> None:
    """Who sends both means one."""
    both = {"reasoning_content": "a", "reasoning": "a", "content": "b", "refusal": "c"}
    told = [("thinking", "a"), ("text", "b"), ("refusal", "c")]
    assert said_by(read(chunk(both))) == told
    assert said_by(Reader("c").whole(whole(both))) == told
    assert said_by(read(chunk({"reasoning": "a"}))) == [("thinking", "a")]


def test_what_stands_beside_the_pieces_is_kept() -> None:
    """The model, the tokens, and why the answer ended, wherever they were told."""
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": -1},
        "completion_tokens_details": None,
    }
    reader = Reader("c")
    reader.chunk({**chunk({"refusal": "No."}), "model": "m", "usage": usage})
    reader.chunk({**chunk({}, finish_reason="stop", stop_reason="END"), "model": "", "usage": None})
    reader.chunk(chunk({}, finish_reason=None, matched_stop=7))
    assert (reader.model, reader.finish, reader.stopped_by) == ("m", "stop", "END")
    assert (reader.refused, reader.called, reader.was_cut) == (True, False, False)
    assert reader.tokens == (5, 7, 2, None, None)


def test_log_probabilities_come_with_their_text_or_alone() -> None:
    """Only where they were asked for."""
    told = [chunk({"content": ""}, logprobs={"content": [{"token": "a", "logprob": -1}]})]
    told.append(chunk({"content": "a"}, logprobs={"content": [TOKEN]}))
    assert read(*told, logprobs=True) == [
        Said("text", "", [{**TOKEN, "bytes": []}]),
        Said("text", "a", [TOKEN]),
    ]
    assert read(*told) == [Said("text", "a", [])]


NO_ANSWERS: list[Any] = [
    whole({"content": 1}),
    whole({"content": ["x"]}),
    whole({"content": "x"}, finish_reason=1),
    whole({"content": "x"}, finish_reason="error"),
    whole({"reasoning_content": 1}),
    whole({"refusal": {}}),
    whole([]),
    whole("x"),
    whole({"tool_calls": {}}),
    whole({"tool_calls": [1]}),
    whole({"tool_calls": [{}]}),
    whole({"tool_calls": [call("{}")]}),
    whole({"tool_calls": [call({}, name="f")]}),
    whole({"tool_calls": [call("{}", name=["f"])]}),
    whole({"tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "f"}}]}),
    {"choices": {}},
    {"choices": "x"},
    {"choices": ["x"]},
    whole({}, logprobs={"content": [{"logprob": 1}]}),
    whole({}, logprobs={"content": ["a"]}),
    whole({}, logprobs={"content": {"token": "a"}}),
    whole({}, logprobs={"content": [{"token": "a", "top_logprobs": 1}]}),
]


@pytest.mark.parametrize("chat", NO_ANSWERS)
def test_what_is_no_answer_is_the_providers_error(chat: Any) -> None:
    """In a stream as in a whole answer, and of one kind."""
    choices = chat["choices"]
    cut = [
        {"delta" if name == "message" else name: value for name, value in choice.items()}
        for choice in choices
        if isinstance(choice, dict)
    ]
    with pytest.raises(StreamFailed, match="The provider sent") as failed:
        Reader("c", logprobs=True).whole(chat)
    assert failed.value.code == "upstream_invalid_frame"
    with pytest.raises(StreamFailed) as broken:
        read({"choices": cut or choices}, logprobs=True)
    assert broken.value.message == failed.value.message.replace("a message", "a delta")


@pytest.mark.parametrize(
    "chat", [None, [], "x", {}, {"choices": []}, {"choices": [{}]}, whole(None), chunk({})]
)
def test_a_whole_answer_has_a_choice_with_a_message(chat: Any) -> None:
    """Unlike a chunk."""
    with pytest.raises(StreamFailed, match="The provider sent"):
        Reader("c").whole(chat)


_ANSWERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "reasoning": st.none() | st.text(max_size=5),
        "content": st.none() | st.text(max_size=5),
        "refusal": st.none() | st.text(max_size=5),
        "tool_calls": st.lists(
            st.builds(
                lambda own, name, arguments: call(arguments, None, name=name, own=own),
                st.none() | st.sampled_from(["a", "c_0", "c_1", "c_2"]),
                st.sampled_from(["f", "ff"]),
                st.text(max_size=5),
            ),
            max_size=4,
        ),
    }
)


def _pieces_of(draw: st.DrawFn, text: str | None) -> list[str]:
    edges = [0, *sorted(draw(st.lists(st.integers(0, len(text or "")), max_size=3))), None]
    return [(text or "")[begin:end] for begin, end in itertools.pairwise(edges)]


@st.composite
def _streams(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return an answer, and chunks of it in which all but the beginnings of calls is mixed."""
    answer = draw(_ANSWERS)
    ropes: list[list[dict[str, Any]]] = [
        [{name: piece} for piece in _pieces_of(draw, answer[name])]
        for name in ("reasoning", "content", "refusal")
    ]
    mixed: list[dict[str, Any]] = []
    for index, each in enumerate(answer["tool_calls"]):
        first, *rest = _pieces_of(draw, each["function"]["arguments"])
        head = {**each, "index": index, "function": {**each["function"], "arguments": first}}
        mixed.append({"tool_calls": [head]})
        ropes.append([{"tool_calls": [call(piece, index)]} for piece in rest])
    while any(ropes):
        rope = draw(st.sampled_from([rope for rope in ropes if rope]))
        mixed.append(rope.pop(0))
    return answer, [chunk(each) for each in mixed]


@given(_streams())
def test_a_stream_says_what_the_whole_answer_would(
    made: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    """However it is cut; and no two calls have one id."""
    answer, chunks = made
    streamed, at_once = read(*chunks), Reader("c").whole(whole(answer))
    assert calls_of(streamed) == calls_of(at_once)
    ids = [own for own, _, _ in calls_of(at_once)]
    assert len(set(ids)) == len(ids) == len(answer["tool_calls"])
    for name, kind in (("reasoning", "thinking"), ("content", "text"), ("refusal", "refusal")):
        for pieces in (streamed, at_once):
            told = "".join(text for each, text in said_by(pieces) if each == kind)
            assert told == (answer[name] or "")


def seconds(*chunks: dict[str, Any]) -> float:
    """Return how long the processor reads."""
    since = time.process_time()
    read(*chunks)
    return time.process_time() - since


def test_a_name_costs_what_it_is_long() -> None:
    """Whether it comes in pieces or again and again."""
    piece = chunk({"tool_calls": [call("", name="0123456789" * 100)]})
    other = chunk({"tool_calls": [call("", name="x" * 1001)]})
    assert seconds(*([piece, other] * 10_000)) < 2
    assert seconds(*([piece] * 20_000)) < 2


def test_ids_of_ours_are_found_at_once() -> None:
    """Also where a server has given away all that would have been ours."""
    given_away = [call("", own=f"c_{20_000 + number}", name="f") for number in range(20_000)]
    calls = [*given_away, *([call("", name="f")] * 20_000)]
    since = time.process_time()
    made = calls_of(Reader("c").whole(whole({"tool_calls": calls})))
    assert time.process_time() - since < 3
    assert len({own for own, _, _ in made}) == len(calls)
