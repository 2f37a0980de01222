"""Whether a model has room for a prompt."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog import Kind, Locality, Model, Provider
from router.endpoints import CHAT, ENDPOINTS
from router.room import CHARACTERS_A_TOKEN, Prompt, why_cut, why_no_room
from router.usage import Usage

HERE = Provider("here", Kind.OPENAI, "http://127.0.0.1:1/v1", Locality.LOCAL)


def body_of(characters: int) -> dict[str, Any]:
    """Return a request whose text has so many characters."""
    return {"messages": [{"role": "user", "content": "x" * characters}]}


@pytest.mark.parametrize(
    ("characters", "context", "exceeds"),
    [(800, 100, False), (807, 100, False), (808, 100, True), (10**6, None, False), (0, 1, False)],
)
def test_what_fits_at_the_most_generous_count_is_never_too_long(
    characters: int, context: int | None, *, exceeds: bool
) -> None:
    """Eight characters a token fit; a token more does not, and of the unknown nothing is said."""
    assert Prompt(CHAT, body_of(characters)).exceeds(context) is exceeds


class Unread(dict[str, Any]):
    """Fields that nobody may look at."""

    def get(self, *_: object) -> object:
        """Say that somebody did."""
        raise AssertionError("the prompt was looked through")


def test_a_body_that_is_small_is_not_looked_through() -> None:
    """Its bytes alone say that it fits."""
    assert not Prompt(CHAT, Unread(), 800).exceeds(100)
    with pytest.raises(AssertionError):
        Prompt(CHAT, Unread(), 801).exceeds(100)


def test_what_has_no_prompt_is_never_too_long() -> None:
    """Several inputs to embed are none of each other's length."""
    assert not Prompt(ENDPOINTS["/v1/embeddings"], {"input": "x" * 1000}).exceeds(1)


@given(characters=st.integers(0, 5000), context=st.integers(1, 700))
def test_the_text_says_both_numbers_where_it_says_anything(characters: int, context: int) -> None:
    """Exactly where there is no room even at eight characters a token."""
    why = why_no_room(Model("here", "m", {}, context), Prompt(CHAT, body_of(characters)))
    least = characters // CHARACTERS_A_TOKEN
    assert (why is not None) == (least > context)
    assert why is None or f"for {context} tokens, and this prompt has {least} " in why


@pytest.mark.parametrize(
    ("window", "context", "said"),
    [(128, 8192, 128), (8192, 128, 128), (128, None, 128), (None, 128, 128), (8192, 8192, None)],
)
def test_the_smaller_of_window_and_context_counts(
    window: int | None, context: int | None, said: int | None
) -> None:
    """And the text says how to make that one larger."""
    why = why_no_room(Model("here", "m", {}, context), Prompt(CHAT, body_of(2000)), window)
    assert (why is None) == (said is None)
    if why is not None:
        assert f"room for {said} tokens" in why
        assert ("num_ctx" in why) == (window == said)


@pytest.mark.parametrize(
    ("read", "characters", "is_cut"),
    [
        (127, 500, False),
        (128, 500, True),
        (129, 500, True),
        (62, 503, False),
        (62, 504, True),
        # What was not told says nothing.
        (0, 504, False),
    ],
)
def test_the_tokens_that_were_read_tell_a_cut_prompt(
    read: int, characters: int, *, is_cut: bool
) -> None:
    """It fills the window, or less was read than it has at the very least."""
    prompt = Prompt(CHAT, body_of(characters))
    why = why_cut(Model("here", "m"), prompt, Usage(read, 1), 128)
    assert (why is not None) == is_cut
    assert why is None or (f"to {read} without" in why and "num_ctx" in why)
