from collections.abc import Sequence

from backends.mlx_backend.generation import Finished, Progress, Text
from backends.mlx_backend.row import Row


def decode(tokens: Sequence[int]) -> str:
    """Decode tokens that are bytes, like the smallest of every byte-level BPE."""
    return bytes(tokens).decode("utf-8", "replace")


def make(*stop: str) -> Row:
    """Return a row whose prompt had eleven tokens."""
    return Row(7, 11, sink=lambda _: None, decode=decode, stop=stop)


def test_tokens_become_text() -> None:
    """Each token brings its text, and the last one says why it is the last."""
    row = make()
    assert row.take(ord("a"), None) == (Text("a"), None)
    assert row.take(ord("b"), "length") == (Text("b"), Finished("length", 11, 2))


def test_the_end_token_is_counted_and_has_no_text() -> None:
    """The token that ends an answer costs one token and shows nothing."""
    row = make()
    row.take(ord("a"), None)
    assert row.take(0, "stop") == (Progress(), Finished("stop", 11, 2))


def test_a_stop_string_ends_the_row() -> None:
    """A stop string ends an answer that the batch would go on with."""
    row = make("bc")
    assert row.take(ord("a"), None) == (Text("a"), None)
    assert row.take(ord("b"), None) == (Progress(), None)
    assert row.take(ord("c"), None) == (Progress(), Finished("stop", 11, 3))


def test_what_was_held_back_comes_with_the_end() -> None:
    """The beginning of a stop string that never came is text after all."""
    row = make("bcd")
    row.take(ord("b"), None)
    assert row.take(ord("c"), "length") == (Text("bc"), Finished("length", 11, 2))


def test_a_stop_string_in_the_last_token_beats_the_limit() -> None:
    """An answer that reaches its limit with a stop string has stopped."""
    row = make("b")
    assert row.take(ord("b"), "length") == (Progress(), Finished("stop", 11, 1))


def test_half_a_character_at_the_end() -> None:
    """The rest of a character that never came is replaced, not lost."""
    row = make()
    assert row.take(0xE2, None) == (Progress(), None)
    assert row.take(0, "stop") == (Text("\ufffd"), Finished("stop", 11, 2))
