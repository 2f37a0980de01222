from typing import Literal

import pytest

from backends.mlx_backend.choice import Choice, Ended, Piece
from backends.mlx_backend.deltas import CallArguments, CallBegun, Content, Reasoning
from backends.mlx_backend.generation import Begun, ChosenToken, Finished, Text, TokenChance

CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


def token(text: str) -> tuple[ChosenToken, ...]:
    """Return the one token of a piece of text."""
    return (ChosenToken(TokenChance(text.encode(), -1.0), ()),)


def run(choice: Choice, *texts: str, reason: Literal["stop", "length"] = "stop") -> list[Piece]:
    """Let a generation say these texts, each of one token, and end."""
    pieces = [piece for text in texts for piece in choice.take(Text(text, token(text)))]
    return pieces + choice.take(Finished(reason, 9, len(texts) + 1, 4))


def ended(choice: Choice) -> Ended:
    """Return how a choice ended."""
    assert choice.ended is not None
    return choice.ended


def test_text() -> None:
    """Text is passed on, and the end carries the counts."""
    choice = Choice(tools=False, named=False)
    assert choice.take(Begun(9, 4, thinking=False)) == []
    assert choice.ended is None
    assert run(choice, "a", " b") == [
        Piece(Content("a"), token("a")),
        Piece(Content(" b"), token(" b")),
    ]
    assert choice.ended == Ended("stop", 9, 3, 4, 0)


@pytest.mark.parametrize(
    ("texts", "named", "reason", "expected"),
    [
        ([CALL], False, "stop", "tool_calls"),
        (["a", CALL], False, "stop", "tool_calls"),
        ([CALL], True, "stop", "stop"),
        ([CALL[:-14]], False, "length", "length"),
        ([CALL[:-14]], True, "length", "length"),
        (["a"], False, "stop", "stop"),
        (["<tool_call>a"], False, "stop", "stop"),
    ],
)
def test_why_it_ended(
    texts: list[str], named: bool, reason: Literal["stop", "length"], expected: str
) -> None:
    """A call ends the answer as OpenAI says it: unless it was cut off, or chosen by name."""
    choice = Choice(tools=True, named=named)
    run(choice, *texts, reason=reason)
    assert ended(choice).reason == expected


def test_calls_are_looked_for_among_tools_only() -> None:
    """Without tools a marker is text."""
    choice = Choice(tools=False, named=False)
    assert run(choice, CALL) == [Piece(Content(CALL), token(CALL))]
    assert ended(choice).reason == "stop"


@pytest.mark.parametrize("thinking", [True, False])
def test_reasoning_is_counted(thinking: bool) -> None:
    """What the model tells itself is counted apart, markers with it."""
    choice = Choice(tools=True, named=False)
    choice.take(Begun(9, 4, thinking=thinking))
    texts = ["h", "m", "</think>", "a", "b"]
    run(choice, *(texts if thinking else ["<think>", *texts]))
    assert ended(choice).reasoning_tokens == (3 if thinking else 4)


def test_reasoning_is_never_more_than_was_generated() -> None:
    """The count of pieces does not pass the count of tokens."""
    choice = Choice(tools=False, named=False)
    choice.take(Begun(9, 4, thinking=True))
    choice.take(Text("a"))
    choice.take(Text("b"))
    choice.take(Finished("length", 9, 1))
    assert ended(choice).reasoning_tokens == 1


def test_log_probabilities_are_those_of_the_content() -> None:
    """Tokens of reasoning and of calls are left out; those held back come with their text."""
    choice = Choice(tools=True, named=False)
    choice.take(Begun(9, 4, thinking=True))
    pieces = run(choice, "hm", "</think>", "a", " <", "b", CALL[:12], CALL[12:])
    assert [type(piece.delta) for piece in pieces] == [
        Reasoning,
        Content,
        Content,
        CallBegun,
        CallArguments,
    ]
    assert [piece.tokens for piece in pieces] == [
        (),
        token("a"),
        token(" <") + token("b"),
        (),
        (),
    ]


def test_log_probabilities_leave_reasoning_out_at_its_edges() -> None:
    """A token that ends the reasoning and begins the content is told of, those before are not."""
    choice = Choice(tools=False, named=False)
    _, content = run(choice, "<think>hm", "</think>a")
    assert content.tokens == token("</think>a")


def test_tokens_held_back_to_the_end() -> None:
    """What the parser holds until the end keeps its tokens."""
    choice = Choice(tools=True, named=False)
    assert run(choice, "a", "\n") == [
        Piece(Content("a"), token("a")),
        Piece(Content("\n"), token("\n")),
    ]
