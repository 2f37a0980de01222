import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.mlx_backend.deltas import (
    AnswerParser,
    CallArguments,
    CallBegun,
    Content,
    Delta,
    Reasoning,
    new_call_id,
)

Said = tuple[str, str, list[tuple[str, str]]]


def pushed(pieces: Iterable[str], *, tools: bool = True, thinking: bool = False) -> list[Delta]:
    """Return the deltas of an answer that comes in these pieces."""
    parser = AnswerParser(tools=tools, thinking=thinking, new_id=lambda: "id")
    deltas = [delta for piece in pieces for delta in parser.push(piece)]
    return deltas + parser.finish()


def joined(deltas: Sequence[Delta]) -> Said:
    """Return what was said in all: content, reasoning, and calls with their arguments."""
    content = reasoning = ""
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        match delta:
            case Content(text=text):
                content += text
            case Reasoning(text=text):
                reasoning += text
            case CallBegun(index=index, name=name):
                assert index == len(calls)
                calls.append((name, ""))
            case CallArguments(index=index, text=text):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + text)
    return content, reasoning, calls


def said(text: str, *, tools: bool = True, thinking: bool = False) -> Said:
    """Return what an answer says that comes at once, having checked that each cut says the same."""
    whole = joined(pushed([text], tools=tools, thinking=thinking))
    assert joined(pushed(text, tools=tools, thinking=thinking)) == whole
    for cut in range(len(text)):
        pieces = text[:cut], text[cut:]
        assert joined(pushed(pieces, tools=tools, thinking=thinking)) == whole
    return whole


def hermes(name: str, arguments: str) -> str:
    """Return a call in the usual format."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", "", [])),
        ("hello ", ("hello ", "", [])),
        ("\n hello\n", ("\n hello\n", "", [])),
        ("1 < 2 <tool", ("1 < 2 <tool", "", [])),
        (hermes("f", "{}"), ("", "", [("f", "{}")])),
        (f"\n\n{hermes('f', '{}')}\n", ("", "", [("f", "{}")])),
        (f"Let me see.\n\n{hermes('f', '{}')}", ("Let me see.", "", [("f", "{}")])),
        (
            hermes("f", '{"a": 1}') + "\n" + hermes("g", '{"b": [{}]}'),
            ("", "", [("f", '{"a": 1}'), ("g", '{"b": [{}]}')]),
        ),
        (
            hermes("f", '{"a": "}{\\"</tool_call><tool_call>"}'),
            ("", "", [("f", '{"a": "}{\\"</tool_call><tool_call>"}')]),
        ),
        (hermes("f", '{"a": "\\\\"}'), ("", "", [("f", '{"a": "\\\\"}')])),
        ('<tool_call>{"name":"f","arguments":{}}</tool_call>', ("", "", [("f", "{}")])),
        ('<tool_call>{"name":"f","parameters":{"a":1}}', ("", "", [("f", '{"a":1}')])),
        (
            '<tool_call>{"arguments": {"a": "é"}, "name": "f"}</tool_call>',
            ("", "", [("f", '{"a":"é"}')]),
        ),
        (
            '<tool_call>{"id": "x", "name": "f", "arguments": {"a": 1}}</tool_call>',
            ("", "", [("f", '{"a":1}')]),
        ),
        (
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
            ("", "", [("f", '{"a": 1}')]),
        ),
        ('<tool_call>{"name": "f", "arguments": " "}</tool_call>', ("", "", [("f", "{}")])),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', ("", "", [("f", "{}")])),
        ('<tool_call>{"name": "f"}</tool_call>', ("", "", [("f", "{}")])),
        ('<tool_call>{"name": "\\u0066", "arguments": {}}</tool_call>', ("", "", [("f", "{}")])),
        (
            '<tool_call>[{"name": "f"}, {"name": "g", "arguments": {"a": 1}}]</tool_call>',
            ("", "", [("f", "{}"), ("g", '{"a":1}')]),
        ),
        (f"{hermes('f', '{}')}\nDone.", ("Done.", "", [("f", "{}")])),
        # The marker that ends the call is missing.
        (f"{hermes('f', '{}')[:-12]}", ("", "", [("f", "{}")])),
        (f"{hermes('f', '{}')[:-12]} Done.", ("Done.", "", [("f", "{}")])),
        (f"{hermes('f', '{}')[:-12]}{hermes('g', '{}')}", ("", "", [("f", "{}"), ("g", "{}")])),
        # So is the brace.
        ('<tool_call>{"name":"f","arguments":{}</tool_call>', ("", "", [("f", "{}")])),
        ('<tool_call>{"name":"f","arguments":{"a":1</tool_call>', ("", "", [("f", '{"a":1')])),
        ('<tool_call>{"parameters":{"a":1},"name":"f"}', ("", "", [("f", '{"a":1}')])),
        # A line break stands in a string.
        (hermes("f", '{"a": "\\\n"}'), ("", "", [("f", '{"a": "\\\\n"}')])),
        (hermes("f", '{"a": "x\ny\\\nz"}'), ("", "", [("f", '{"a": "x\\ny\\\\nz"}')])),
    ],
)
def test_calls(text: str, expected: Said) -> None:
    """Calls are told from content, in whichever of its forms the JSON of a call comes."""
    assert said(text) == expected


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<tool_call>hm</tool_call>", "hm"),
        ("So:\n<tool_call>\nhm\n</tool_call>", "So:hm"),
        ('<tool_call>{"name": "f", "arguments": </tool_call>', '{"name": "f", "arguments":'),
        ('<tool_call>{"name": 5, "arguments": {}}</tool_call>', '{"name": 5, "arguments": {}}'),
        ('<tool_call>{"name": "", "arguments": {}}</tool_call>', '{"name": "", "arguments": {}}'),
        (
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
            '{"name": "f", "arguments": [1]}',
        ),
        (
            '<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>',
            '{"name": "f", "arguments": "[1]"}',
        ),
        ("<tool_call>[]</tool_call>", "[]"),
        ('<tool_call>[{"name": "f"}, 5]</tool_call>', '[{"name": "f"}, 5]'),
        (f"<tool_call>{'[' * 5000}</tool_call>", "[" * 5000),
        ("<tool_call></tool_call>", ""),
        ("<tool_call>", ""),
        ("a </tool_call> b", "ab"),
        ("</tool_call>", ""),
    ],
)
def test_what_is_no_call(text: str, content: str) -> None:
    """What looks like a call and is none is content, without its markers."""
    assert joined(pushed([text])) == (content, "", [])
    assert joined(pushed(text)) == (content, "", [])


def test_a_call_after_one_that_is_none() -> None:
    """A call that is malformed does not take the next one with it."""
    assert said(f"<tool_call>hm{hermes('f', '{}')}") == ("hm", "", [("f", "{}")])
    assert said(f"<tool_call>hm</tool_call>{hermes('f', '{}')}") == ("hm", "", [("f", "{}")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<tool_call>\n{"name": "we', ('{"name": "we', "", [])),
        ('<tool_call>\n{"name": "f", "argum', ('{"name": "f", "argum', "", [])),
        ('<tool_call>\n{"name": "f", "arguments": {', ("", "", [("f", "{")])),
        ('<tool_call>\n{"name": "f", "arguments": {"a": "b', ("", "", [("f", '{"a": "b')])),
        ('<tool_call>\n{"name": "f", "arguments": {}', ("", "", [("f", "{}")])),
        (f"{hermes('f', '{}')[:-1]}", ("", "", [("f", "{}")])),
        ("hello <tool_ca", ("hello <tool_ca", "", [])),
        ("<think>hm", ("", "hm", [])),
        ("<think>hm </thi", ("", "hm </thi", [])),
        ("<thi", ("<thi", "", [])),
    ],
)
def test_an_answer_that_is_cut_off(text: str, expected: Said) -> None:
    """An answer that ends anywhere says what was there of it."""
    assert said(text) == expected


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize(
    ("text", "thinking", "expected"),
    [
        ("<think>\nhm \n</think>\n\nhello", False, ("hello", "hm", [])),
        (" \n<think></think>\n\nhello ", False, ("hello ", "", [])),
        ("\nhm\n</think>\n\nhello", True, ("hello", "hm", [])),
        ("<think>\nhm\n</think>\n\nhello", True, ("hello", "hm", [])),
        ("hm", True, ("", "hm", [])),
        ("", True, ("", "", [])),
        ("a < b </thinker>", True, ("", "a < b </thinker>", [])),
        ("hm <tool_call> </think>hello", True, ("hello", "hm <tool_call>", [])),
        ("<thinker>", False, ("<thinker>", "", [])),
    ],
)
def test_reasoning(text: str, thinking: bool, expected: Said, tools: bool) -> None:
    """Reasoning stands before the answer, and its markers nowhere."""
    assert said(text, tools=tools, thinking=thinking) == expected


def test_reasoning_before_calls() -> None:
    """A model may think before it calls."""
    text = f"<think>hm</think>\n{hermes('f', '{}')}"
    assert said(text) == ("", "hm", [("f", "{}")])


@pytest.mark.parametrize("text", ["a <think> b </think> c", "x </think>"])
def test_markers_of_reasoning_later_on(text: str) -> None:
    """Among tools they are markup wherever they stand; without them they are what is said."""
    assert "think>" not in said(text)[0]
    assert said(text, tools=False)[0] == text


@pytest.mark.parametrize(
    "text", [hermes("f", "{}"), "</tool_call>", '{"a": "<think>\\n</think> <tool_call>"}\n']
)
def test_without_tools_all_is_content(text: str) -> None:
    """An answer for which no tools were given is passed on as it is."""
    assert said(text, tools=False) == (text, "", [])


def test_text_is_not_held_back() -> None:
    """What can be no marker is passed on at once, white space and half markers apart."""
    parser = AnswerParser(tools=True, thinking=True)
    assert parser.push("Hm") == [Reasoning("Hm")]
    assert parser.push(" \n<") == []
    assert parser.push("b></") == [Reasoning(" \n<b>")]
    assert parser.push("think>") == []
    assert parser.push(" A") == [Content("A")]
    assert parser.push(" b \n<too") == [Content(" b")]
    assert parser.push("!") == [Content(" \n<too!")]
    assert parser.finish() == []


def test_arguments_are_streamed() -> None:
    """A call begins with the brace of its arguments, which then flow as they come."""
    parser = AnswerParser(tools=True, thinking=False, new_id=lambda: "id")
    assert parser.push('<tool_call>\n{"name": "f", "arguments": ') == []
    assert parser.push("{") == [CallBegun(0, "id", "f"), CallArguments(0, "{")]
    assert parser.push('"a": "lo') == [CallArguments(0, '"a": "lo')]
    assert parser.push("ng ") == [CallArguments(0, "ng ")]
    assert parser.push('"}}') == [CallArguments(0, '"}')]
    assert parser.push("\n</tool_call>") == []
    assert parser.finish() == []
    assert parser.calls == 1


def test_where_the_text_ends() -> None:
    """The parser tells what the text so far ends in."""
    parser = AnswerParser(tools=True, thinking=True)
    assert parser.reasons
    parser.push("hm</think>")
    assert not parser.reasons
    assert not parser.calls_tool
    parser.push("a<tool_call>")
    assert parser.calls_tool
    parser.push('{"name": "f", "arguments": {')
    assert parser.calls_tool
    parser.push("}}</tool_call>")
    assert not parser.calls_tool


def test_ids_are_like_those_of_openai() -> None:
    """Each call has an id of its own."""
    first, second = new_call_id(), new_call_id()
    assert re.fullmatch(r"call_[0-9a-f]{24}", first)
    assert first != second


ARGUMENTS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=12),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=5,
    ),
    max_size=3,
)
CALLS = st.lists(st.tuples(st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True), ARGUMENTS))
PLAIN = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20)
WORDS = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<tool_", "call>", '{"a": 1}']
WORDS += ['{"name": "f", "arguments": ', *'<{}[]":,\\ \naé']
MARKUP = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(st.data(), MARKUP, st.booleans(), st.booleans())
def test_every_cut_says_the_same(
    data: st.DataObject, text: str, tools: bool, thinking: bool
) -> None:
    """However an answer is cut, the deltas are the same once joined."""
    whole = joined(pushed([text], tools=tools, thinking=thinking))
    assert joined(pushed(data.draw(pieces(text)), tools=tools, thinking=thinking)) == whole


@given(MARKUP, st.booleans())
def test_content_holds_no_markup(text: str, thinking: bool) -> None:
    """Among tools no marker of a call is ever passed on as content."""
    for delta in pushed([text], thinking=thinking):
        if isinstance(delta, Content):
            assert "<tool_call>" not in delta.text
            assert "</tool_call>" not in delta.text


@given(PLAIN, PLAIN, CALLS, st.sampled_from(["\n", "", " "]), st.data())
def test_what_was_meant_comes_out(
    reasoning: str,
    content: str,
    calls: list[tuple[str, dict[str, Any]]],
    gap: str,
    data: st.DataObject,
) -> None:
    """An answer of reasoning, content and calls is read as what it was written from."""
    text = f"<think>{reasoning}</think>{content}{gap}"
    text += gap.join(hermes(name, json.dumps(arguments)) for name, arguments in calls)
    got, thoughts, called = joined(pushed(data.draw(pieces(text))))
    assert thoughts == reasoning.strip()
    expected = f"{content}{gap}".lstrip()
    assert got == (expected.rstrip() if calls else expected)
    assert [(name, json.loads(arguments)) for name, arguments in called] == calls
