"""What a picture is, told by its header alone."""

import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from router.errors import RouteFailed
from router.images.format import look_at
from tests.harness.pictures import picture, png_of

_KINDS = ["PNG", "JPEG", "GIF", "WEBP"]


@given(
    kind=st.sampled_from(_KINDS),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    frames=st.integers(1, 4),
)
def test_the_header_says_what_pillow_wrote(kind: str, width: int, height: int, frames: int) -> None:
    """Type, size, and how many frames there are."""
    frames = 1 if kind == "JPEG" else frames
    look = look_at(picture(kind, width, height, frames))
    assert look == (f"image/{kind.lower()}", width, height, frames)
    assert look.pixels == width * height * frames


@pytest.mark.parametrize(
    ("lossless", "alpha"), [(False, False), (True, False), (True, True), (False, True)]
)
def test_webp_has_three_headers(*, lossless: bool, alpha: bool) -> None:
    """Lossy, lossless and extended ones tell their size in different places."""
    file = io.BytesIO()
    mode = "RGBA" if alpha else "RGB"
    colour = (1, 2, 3, 100) if alpha else (1, 2, 3)
    Image.new(mode, (300, 7), colour).save(file, "WEBP", lossless=lossless)
    assert look_at(file.getvalue())[:3] == ("image/webp", 300, 7)


def test_a_jpeg_may_have_much_before_its_size() -> None:
    """Segments of any kind, and fill bytes."""
    data = picture("JPEG", 30, 20)
    more = data[:2] + b"\xff\xe1\xff\xfe" + bytes(65532) + b"\xff" * 9 + b"\xff\x01" + data[2:]
    assert look_at(more)[:3] == ("image/jpeg", 30, 20)


def test_a_jpeg_of_segments_without_end_is_damaged() -> None:
    """Nobody walks them for long."""
    with pytest.raises(RouteFailed):
        look_at(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 20_000 + picture("JPEG")[2:])


def test_frames_without_end_are_not_all_looked_at() -> None:
    """Twenty megabytes of them would take many seconds."""
    frame = b"," + bytes(4) + b"\1\0\1\0" + b"\0" + b"\2\0"
    head = b"GIF89a\1\0\1\0\0\0\0"
    assert look_at(head + frame * 10_000).frames == 10_000
    with pytest.raises(RouteFailed, match="damaged"):
        look_at(head + frame * 10_001)


def test_frames_beyond_the_screen_count() -> None:
    """A decoder lets a GIF's screen grow by them."""
    data = bytearray(picture("GIF", 10, 10))
    at = data.index(b",", 13)
    data[at + 5 : at + 9] = (5000).to_bytes(2, "little") * 2
    assert look_at(bytes(data))[1:3] == (5000, 5000)


def test_an_apng_may_not_hide_its_frames() -> None:
    """They are counted, whatever its own count says."""
    data = picture("PNG", 5, 5, frames=4)
    at = data.index(b"acTL") + 4
    assert look_at(data[:at] + (1).to_bytes(4, "big") + data[at + 4 :]).frames == 4


@given(kind=st.sampled_from(_KINDS), cut=st.integers(0, 400), rest=st.binary(max_size=60))
def test_what_is_damaged_is_refused_or_read_and_never_more(
    kind: str, cut: int, rest: bytes
) -> None:
    """No bytes lead to anything but a look or a refusal."""
    with suppress(RouteFailed):
        assert look_at(picture(kind, frames=1 if kind == "JPEG" else 2)[:cut] + rest).pixels > 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BM" + bytes(99),
        b"\0\0\0\x1cftypavif" + bytes(99),
        b"RIFF1234WAVE",
        b"%PDF-1.7",
        b"\x89PNG",
        b"GIF88a" + bytes(99),
    ],
)
def test_other_formats_are_none(data: bytes) -> None:
    """Only four are taken."""
    with pytest.raises(RouteFailed, match="none of PNG"):
        look_at(data)


def test_a_png_that_has_no_size_is_damaged() -> None:
    """Nothing is as wide as nothing."""
    with pytest.raises(RouteFailed, match="damaged"):
        look_at(png_of(0, 5))
