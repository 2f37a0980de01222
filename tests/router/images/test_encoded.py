"""Pictures in base64."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import RouteFailed
from router.images.encoded import _PIECE, Encoded, check, encode, measure, of_data_uri
from router.images.format import look_at
from router.images.rules import Rules
from tests.harness.pictures import picture, uri_of

RULES = Rules()
PICTURE = picture()


@given(more=st.integers(0, 4))
def test_what_is_written_is_what_was_read(more: int) -> None:
    """Whole pieces and what is left of one."""
    data = PICTURE + bytes(_PIECE * 3 // 4 - len(PICTURE) + more)
    encoded = encode(data, look_at(data))
    assert encoded.uri == uri_of(data)
    check(of_data_uri(encoded.uri), RULES)


_LETTERS = st.text(st.sampled_from("ABab01+/=-_ \n\té"), max_size=12)


_STRICT = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@given(tail=_LETTERS, pieces=st.integers(0, 1))
def test_base64_is_read_strictly(tail: str, pieces: int) -> None:
    """Whatever stands at its end, or after a whole piece."""
    head = base64.b64encode(PICTURE + bytes(-len(PICTURE) % 3)).decode()
    text = head + "A" * (pieces * _PIECE) + tail
    try:
        check(Encoded("image/png", text), RULES)
        found = True
    except RouteFailed:
        found = False
    assert found is (_STRICT.fullmatch(text) is not None)


def test_padding_ends_a_picture_wherever_it_stands() -> None:
    """At the end of a piece, too."""
    head = base64.b64encode(PICTURE + bytes(-len(PICTURE) % 3)).decode()
    text = head + "A" * (_PIECE - len(head) - 4) + "AAA=" + "AAAA"
    with pytest.raises(RouteFailed, match="base64"):
        check(Encoded("image/png", text), RULES)


@pytest.mark.parametrize(
    ("uri", "media_type"),
    [
        ("data:image/png;base64,AAAA", "image/png"),
        ("DATA:Image/PNG;BASE64,AAAA", "Image/PNG"),
        ("data:image/png;charset=utf-8;base64,AAAA", "image/png"),
        ("data:image/svg+xml;base64,AAAA", "image/svg+xml"),
    ],
)
def test_a_data_uri_declares_a_type(uri: str, media_type: str) -> None:
    """With parameters or without, in any case."""
    assert of_data_uri(uri) == (media_type, "AAAA")


def test_the_other_name_of_jpeg_is_known() -> None:
    """Programs give it."""
    data = base64.b64encode(picture("JPEG")).decode()
    check(Encoded("image/jpg", data), RULES)
    check(Encoded("IMAGE/JPEG", data), RULES)


def test_the_size_is_of_the_file_and_exact() -> None:
    """Not of its letters."""
    data = PICTURE + bytes(1000 - len(PICTURE))
    encoded = of_data_uri(uri_of(data))
    check(encoded, Rules(max_bytes=1000))
    with pytest.raises(RouteFailed, match="max_mb"):
        check(encoded, Rules(max_bytes=999))


def test_pixels_count_over_all_frames() -> None:
    """A hundred pixels three times."""
    data = picture("GIF", 10, 10, 3)
    assert measure(data, Rules(max_pixels=300)).frames == 3
    with pytest.raises(RouteFailed, match="in 3 frames"):
        measure(data, Rules(max_pixels=299))
