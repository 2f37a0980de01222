from collections.abc import Sequence
from pathlib import Path

from backends.mlx_backend.generation import (
    Begun,
    ChosenToken,
    Event,
    Finished,
    Generation,
    Progress,
    Sampling,
    Text,
    TokenChance,
)
from backends.mlx_backend.row import Row
from backends.wire import Priority


def decode(tokens: Sequence[int]) -> str:
    """Decode tokens that are bytes, like the smallest of every byte-level BPE."""
    return bytes(tokens).decode("utf-8", "replace")


def make(*stop: str, room: int = 100, told: list[Event] | None = None) -> Row:
    """Return a row whose prompt had eleven tokens, three of them known."""
    wanted = Generation(
        "m", Path(), (), (), Sampling(), None, stop, Priority.LOW, stop_ids=frozenset({1})
    )
    sink = (told if told is not None else []).append
    row = Row(wanted, sink, decode=decode, ends=frozenset({0}))
    row.begin(Begun(11, 3, thinking=False), room)
    return row


def test_the_beginning_is_told_once() -> None:
    """A prompt that is read again changes nothing of what was told."""
    told: list[Event] = []
    row = make(told=told)
    row.begin(Begun(15, 15, thinking=False), 1)
    assert told == [Begun(11, 3, thinking=False)]
    assert row.take(ord("a")) == (Text("a"), None)


def test_a_stop_id_of_the_request_ends_it() -> None:
    """Tokens that a request names end its answer like the model's own end."""
    assert make().take(1) == (Progress(), Finished("stop", 11, 1, 3))


def test_log_probabilities_come_with_their_token() -> None:
    """They are told even where the token brings no text yet, but not for the end."""
    chances = ChosenToken(TokenChance(b"a", -0.5), ())
    row = make()
    assert row.take(0xE2, chances) == (Text("", (chances,)), None)
    assert row.take(0, chances) == (Text("\ufffd"), Finished("stop", 11, 2, 3))


def test_tokens_become_text() -> None:
    """Each token brings its text, and the last one says why it is the last."""
    row = make(room=2)
    assert row.take(ord("a")) == (Text("a"), None)
    assert row.take(ord("b")) == (Text("b"), Finished("length", 11, 2, 3))


def test_the_end_token_is_counted_and_has_no_text() -> None:
    """The token that ends an answer costs one token and shows nothing."""
    row = make()
    row.take(ord("a"))
    assert row.take(0) == (Progress(), Finished("stop", 11, 2, 3))


def test_a_stop_string_ends_the_row() -> None:
    """A stop string ends an answer that the batch would go on with."""
    row = make("bc")
    assert row.take(ord("a")) == (Text("a"), None)
    assert row.take(ord("b")) == (Progress(), None)
    assert row.take(ord("c")) == (Progress(), Finished("stop", 11, 3, 3))


def test_what_was_held_back_comes_with_the_end() -> None:
    """The beginning of a stop string that never came is text after all."""
    row = make("bcd", room=2)
    row.take(ord("b"))
    assert row.take(ord("c")) == (Text("bc"), Finished("length", 11, 2, 3))


def test_a_stop_string_in_the_last_token_beats_the_limit() -> None:
    """An answer that reaches its limit with a stop string has stopped."""
    row = make("b", room=1)
    assert row.take(ord("b")) == (Progress(), Finished("stop", 11, 1, 3))


def test_half_a_character_at_the_end() -> None:
    """The rest of a character that never came is replaced, not lost."""
    row = make()
    assert row.take(0xE2) == (Progress(), None)
    assert row.take(0) == (Text("\ufffd"), Finished("stop", 11, 2, 3))
