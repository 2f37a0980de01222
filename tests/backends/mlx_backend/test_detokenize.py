from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.mlx_backend.detokenize import IncrementalDecoder, StopStrings


def decode(tokens: Sequence[int]) -> str:
    """Decode tokens that are bytes, like the smallest of every byte-level BPE."""
    return bytes(tokens).decode("utf-8", "replace")


def pieces(tokens: Sequence[int]) -> list[str]:
    """Return what each token brings, and the end."""
    decoder = IncrementalDecoder(decode)
    return [*(decoder.push(token) for token in tokens), decoder.flush()]


def test_characters_come_out_whole() -> None:
    """A character is handed out with the token that completes it, and not before."""
    assert pieces("aé€".encode()) == ["a", "", "é", "", "", "€", ""]


def test_half_a_character_at_the_end_is_not_lost() -> None:
    """What was held back comes out at the end, as a replacement character."""
    assert pieces(b"ab" + b"\xe2\x82") == ["a", "b", "", "", "\ufffd"]


@given(text=st.text())
def test_any_text_survives(text: str) -> None:
    """The pieces of a text are that text, and none holds half a character."""
    out = pieces(text.encode())
    assert "".join(out) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in out)


@given(tokens=st.binary(max_size=60))
def test_any_bytes_survive(tokens: bytes) -> None:
    """Even for garbage the pieces are what decoding all of it at once gives."""
    assert "".join(pieces(tokens)) == decode(tokens)


def test_endless_garbage_is_handed_out() -> None:
    """A model that emits nothing but broken bytes does not hold back text for ever."""
    decoder = IncrementalDecoder(decode)
    out = [decoder.push(0xE2) for _ in range(300)]
    assert sum(len(piece) for piece in out) > 290


def test_spaces_that_depend_on_the_token_before() -> None:
    """A decoder that drops the space of its first token still yields every space."""

    def sentencepiece(tokens: Sequence[int]) -> str:
        return "".join(f" {chr(token)}" for token in tokens).removeprefix(" ")

    decoder = IncrementalDecoder(sentencepiece)
    out = [decoder.push(ord(letter)) for letter in "abcd"]
    assert "".join(out) == "a b c d"


@pytest.mark.parametrize(
    ("stops", "given_pieces", "sent", "hit"),
    [
        ((), ["ab", "c"], "abc", False),
        (("END",), ["abEN", "Dcd"], "ab", True),
        (("END",), ["abEN", "d"], "abENd", False),
        (("END",), ["E", "N", "D"], "", True),
        (("aab",), ["aaab", "x"], "a", True),
        (("cd", "b"), ["abcd"], "a", True),
        (("bcd", "c"), ["ab", "cd"], "a", True),
        (("\n\n",), ["a\n", "b\n", "\nc"], "a\nb", True),
        (("é",), ["caf", "é!"], "caf", True),
    ],
)
def test_stop_strings(
    stops: tuple[str, ...], given_pieces: list[str], sent: str, hit: bool
) -> None:
    """An answer is cut before the first stop string, wherever its pieces are cut."""
    cutter = StopStrings(stops)
    out = "".join(cutter.push(piece) for piece in given_pieces)
    assert out + cutter.flush() == sent
    assert cutter.hit == hit


@given(
    text=st.text(alphabet="abc", max_size=40),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_any_text_in_any_pieces_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    """No part of a stop string is sent, and everything before the earliest one is."""
    cutter = StopStrings(stops)
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    out = ""
    for start, end in pairwise(borders):
        out += cutter.push(text[start:end])
    out += cutter.flush()
    if not any(stop in text for stop in stops):
        assert out == text
    else:
        assert cutter.hit
        assert text.startswith(out)
        assert not any(stop in out for stop in stops)
        assert any(text.startswith(stop, len(out)) for stop in stops)
