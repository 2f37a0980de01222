from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from backends.mlx_backend.detokenize import IncrementalDecoder, StopStrings, text_of_tokens


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


def transformers() -> Any:
    """Return what tokenizers are made with; it comes with MLX."""
    return pytest.importorskip("transformers", reason="MLX has no wheels for this machine")


def llama_tokenizer() -> Any:
    """Return one as SentencePiece models have it: spaces inside tokens, bytes as a last resort."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "b", "é"]
    tokenizer = Tokenizer(
        models.BPE({word: at for at, word in enumerate(words)}, [], byte_fallback=True)
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return transformers().PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="module")
def byte_level(tiny_vision_model: Path) -> Any:
    """Return a tokenizer as GPT-2, Llama 3 and Qwen have it."""
    return transformers().AutoTokenizer.from_pretrained(tiny_vision_model)


def check_pieces(tokenizer: Any, tokens: list[int]) -> None:
    """Assert that the pieces of tokens are the text that their tokenizer makes of all of them."""
    silent = frozenset(tokenizer.all_special_ids)
    shown = [token for token in tokens if token not in silent]
    whole = tokenizer.decode(shown, clean_up_tokenization_spaces=False)
    decode = text_of_tokens(tokenizer, silent)
    assert decode(tokens) == whole
    decoder = IncrementalDecoder(decode)
    assert "".join([*(decoder.push(token) for token in tokens), decoder.flush()]) == whole


@settings(max_examples=300)
@given(data=st.data())
def test_any_tokens_of_a_byte_level_tokenizer(byte_level: Any, data: st.DataObject) -> None:
    """Whatever a model emits is told whole: halves of characters, markers, special tokens."""
    check_pieces(byte_level, data.draw(st.lists(st.integers(0, len(byte_level) - 1), max_size=40)))


@settings(max_examples=300)
@given(data=st.data())
def test_any_text_of_a_tokenizer_with_byte_fallback(data: st.DataObject) -> None:
    """Characters that are spelled in bytes, words, spaces and special tokens, in any order.

    Only bytes that are no characters differ: such a tokenizer takes back those before them.
    """
    words = st.sampled_from([*range(258, 263), 1]).map(lambda token: [token])
    characters = st.characters().map(lambda one: [2 + byte for byte in one.encode()])
    atoms = data.draw(st.lists(words | characters, max_size=20))
    check_pieces(llama_tokenizer(), [token for atom in atoms for token in atom])


def test_a_tokenizer_without_a_fast_core() -> None:
    """One that is written in Python is asked as it is."""

    class Slow:
        def decode(self, tokens: Sequence[int], **options: bool) -> str:
            assert options == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
            return decode(tokens)

    assert text_of_tokens(Slow(), frozenset({0}))([0, 97, 0, 98]) == "ab"


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
