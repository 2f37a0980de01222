import io
import struct
import zlib

import pytest
from PIL import Image

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.images import decode_image
from tests.backends.mlx_backend.pictures import BLUE, RED, encoded


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_the_four_formats(kind: str) -> None:
    """Each format that is taken becomes RGB of its size."""
    image = decode_image(encoded(kind=kind, size=(40, 20)))
    assert (image.mode, image.size) == ("RGB", (40, 20))
    red, green, blue = image.getpixel((5, 5))  # type: ignore[misc]  # RGB has three
    assert red > 180
    assert green < 80
    assert blue < 80


def test_orientation_is_applied() -> None:
    """A camera's rotation is undone before the model sees the picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(kind="JPEG", size=(40, 20), exif=exif)).size == (20, 40)


def test_an_animation_shows_its_first_frame() -> None:
    """Of several frames the first one counts."""
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(out.getvalue()).getpixel((4, 4)) == RED


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "BMP", "ICO"])
def test_other_formats_are_never_decoded(kind: str) -> None:
    """Formats with a long history of holes are refused, whatever they call themselves."""
    with pytest.raises(ChatError) as refusal:
        decode_image(encoded(kind=kind, size=(16, 16)))
    assert refusal.value.code == "invalid_image"


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose header promises far more than its bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_100, 12_000, 30_000])
def test_pixels_are_capped_by_the_header(side: int) -> None:
    """A picture with too many pixels is refused before one of them is decoded."""
    with pytest.raises(ChatError, match=r"megapixels|too many pixels") as refusal:
        decode_image(bomb(side, side))
    assert refusal.value.code == "invalid_image"


@pytest.mark.parametrize(
    "data",
    [b"", b"\x89PNG\r\n\x1a\n", encoded(size=(400, 400))[:90], encoded(kind="JPEG")[:100]],
)
def test_damage_is_a_bad_request(data: bytes) -> None:
    """A damaged picture is the client's mistake, not ours."""
    with pytest.raises(ChatError) as refusal:
        decode_image(data)
    assert refusal.value.code == "invalid_image"
