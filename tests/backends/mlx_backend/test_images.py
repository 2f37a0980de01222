import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, _imaging

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Detail
from backends.mlx_backend.images import decode_image, picture_hash
from tests.backends.mlx_backend.pictures import BLUE, RED, encoded

# Pillow warns of damaged EXIF data; elsewhere a warning is no error.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

WHITE = (255, 255, 255)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return any picture in a file format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def corners(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a picture whose upper left quarter is red, all else blue."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1] // 2))
    return image


def close(pixel: Any, colour: tuple[int, int, int], by: int = 40) -> bool:
    return all(abs(a - b) <= by for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_the_four_formats(kind: str) -> None:
    """Each format that is taken becomes RGB of its size."""
    image = decode_image(encoded(kind=kind, size=(40, 20)))
    assert (image.mode, image.size) == ("RGB", (40, 20))
    red, green, blue = image.getpixel((5, 5))  # type: ignore[misc]  # RGB has three
    assert red > 180
    assert green < 80
    assert blue < 80


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    """A camera's rotation or reflection is undone before the model sees the picture."""
    # EXIF names the edges of the picture at which its first row and its first column lie.
    undone = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # the inverse of what the camera needs
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    held = corners()
    if orientation in undone:
        held = held.transpose(undone[orientation])
    image = decode_image(saved(held, kind, exif=exif))
    assert image.size == (64, 48)
    assert not image.info
    assert close(image.getpixel((8, 8)), RED)
    for place in ((56, 8), (8, 40), (56, 40)):
        assert close(image.getpixel(place), BLUE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08", b"Exif\0\0nonsense"],
)
def test_broken_notes_do_not_spoil_a_picture(exif: bytes, kind: str) -> None:
    """A picture whose EXIF data is damaged is shown as it lies."""
    assert decode_image(saved(corners(), kind, exif=exif)).size == (64, 48)


def test_a_note_that_is_no_number_is_ignored() -> None:
    """EXIF data as text that is not even hexadecimal does not spoil a picture either."""
    note = chunk(b"tEXt", b"Raw profile type exif\0\n\n\nzz")
    data = encoded()
    assert decode_image(data[:33] + note + data[33:]).size == (80, 60)


def test_an_animation_shows_its_first_frame() -> None:
    """Of several frames the first one counts."""
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(out.getvalue()).getpixel((4, 4)) == RED


def transparent(mode: str) -> bytes:
    """Return a PNG, its left half transparent black, its right half opaque in the mode's way."""
    if mode == "P":
        image = Image.new("P", (32, 16), 1)
        image.putpalette([0, 0, 0, *RED])
        image.paste(0, (0, 0, 16, 16))
        return saved(image, transparency=0)
    if mode == "bytes":
        image = Image.new("P", (32, 16), 1)
        image.putpalette([0, 0, 0, *RED])
        image.paste(0, (0, 0, 16, 16))
        return saved(image, transparency=bytes([0, 255]))
    if mode == "RGB":
        image = Image.new("RGB", (32, 16), RED)
        image.paste((0, 0, 0), (0, 0, 16, 16))
        return saved(image, transparency=(0, 0, 0))
    if mode == "L":
        image = Image.new("L", (32, 16), 90)
        image.paste(0, (0, 0, 16, 16))
        return saved(image, transparency=0)
    image = Image.new("RGBA", (32, 16), (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 16, 16))
    return saved(image.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "bytes", "RGB", "L"])
def test_what_is_transparent_is_white(mode: str) -> None:
    """However a format says what is transparent, there the picture is white, not black."""
    image = decode_image(transparent(mode))
    assert (image.mode, image.getpixel((4, 8))) == ("RGB", WHITE)
    assert image.getpixel((28, 8)) != WHITE


def test_half_transparent_is_half_white() -> None:
    """What shines through is paper."""
    image = decode_image(saved(Image.new("RGBA", (8, 8), (0, 0, 0, 128))))
    assert close(image.getpixel((4, 4)), (127, 127, 127), by=1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_transparency_of_the_other_formats(kind: str) -> None:
    """A transparent GIF or WebP lies over white too."""
    clear = saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), kind)
    assert decode_image(clear).getpixel((4, 4)) == WHITE


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("L", (8, 8), 90), "PNG", (90, 90, 90)),
        (Image.new("L", (8, 8), 90), "JPEG", (90, 90, 90)),
        (Image.new("1", (8, 8), 1), "PNG", WHITE),
        (Image.new("P", (8, 8), 0), "PNG", (0, 0, 0)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
        (Image.fromarray(np.full((8, 8), 90 << 8, np.uint16)), "PNG", (90, 90, 90)),
        (Image.fromarray(np.full((8, 8), 40, np.uint16)), "PNG", (0, 0, 0)),
    ],
    ids=["grey", "grey JPEG", "bits", "palette", "CMYK", "16 bits", "16 bits, dark"],
)
def test_every_mode_becomes_rgb(
    image: Image.Image, kind: str, expected: tuple[int, int, int]
) -> None:
    """Greys, palettes, inks and 16 bits a channel come out in the colours that they mean."""
    decoded = decode_image(saved(image, kind))
    assert decoded.mode == "RGB"
    assert close(decoded.getpixel((4, 4)), expected, by=3)


@pytest.mark.parametrize(
    ("size", "detail", "expected"),
    [
        ((3000, 1500), "auto", (1920, 960)),
        ((1500, 3000), "auto", (960, 1920)),
        ((1920, 1080), "auto", (1920, 1080)),
        ((3000, 1500), "low", (512, 256)),
        ((3000, 1500), "high", (3000, 1500)),
        ((300, 200), "auto", (300, 200)),
        ((300, 200), "low", (300, 200)),
        ((10_000, 1), "auto", (1920, 1)),
        ((1, 10_000), "low", (1, 512)),
        ((1, 1), "low", (1, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_only_ever_scaled_down(
    size: tuple[int, int], detail: Detail, expected: tuple[int, int], kind: str
) -> None:
    """The longer side fits what the detail allows, the shorter never vanishes."""
    assert decode_image(encoded(size=size, kind=kind), detail).size == expected


def test_a_turned_picture_is_scaled_all_the_same() -> None:
    """Scaling and turning meet in the right order."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(corners((3000, 1500)).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    image = decode_image(data)
    assert image.size == (1920, 960)
    assert close(image.getpixel((100, 100)), RED)
    assert close(image.getpixel((1800, 800)), BLUE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "P"])
def test_scaling_mixes_pixels(kind: str) -> None:
    """Fine black and white stripes become grey, whatever the format, instead of being picked."""
    stripes = np.zeros((64, 4096), np.uint8)
    stripes[:, ::2] = 255
    image = Image.fromarray(stripes)
    data = saved(image.convert("P") if kind == "P" else image, "PNG" if kind == "P" else kind)
    shown = np.asarray(decode_image(data, "low"))[4, 8:-8]
    assert shown.min() > 90
    assert shown.max() < 165


def test_edges_of_transparency_have_no_dark_rim() -> None:
    """Scaling mixes colours by how much of them is seen: black that is not stays out."""
    image = Image.new("RGBA", (1024, 64), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (301, 0, 1024, 64))
    assert np.asarray(decode_image(saved(image), "low")).min() == 255


def test_a_large_jpeg_needs_little_memory() -> None:
    """Of a photo that is scaled to less than a half not every pixel is decoded."""
    data = encoded(size=(6000, 4000), kind="JPEG")
    _imaging.clear_cache()
    _imaging.reset_stats()
    assert decode_image(data).size == (1920, 1280)
    # The 24 megapixels of four bytes would take six of Pillow's blocks for themselves.
    assert _imaging.get_stats()["allocated_blocks"] < 6
    assert _imaging.get_block_size() == 16 * 1024**2


def test_threads_do_not_disturb_each_other() -> None:
    """Many pictures may be decoded at once."""
    colours = [(10 * n, 255 - 10 * n, 30) for n in range(16)]
    files = [encoded(colour, (700, 500)) for colour in colours]
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda data: decode_image(data, "low"), files))
    assert [picture.getpixel((100, 100)) for picture in pictures] == colours


def test_a_hash_tells_pictures_apart() -> None:
    """Equal pixels have one hash, in whatever file; another pixel or shape has another."""
    red = decode_image(encoded(RED, (20, 10)))
    assert picture_hash(red) == picture_hash(decode_image(encoded(RED, (20, 10), "GIF")))
    assert picture_hash(red) != picture_hash(decode_image(encoded(RED, (10, 20))))
    other = red.copy()
    other.putpixel((0, 0), (0, 0, 0))
    assert picture_hash(red) != picture_hash(other)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "BMP", "ICO"])
def test_other_formats_are_never_decoded(kind: str) -> None:
    """Formats with a long history of holes are refused, whatever they call themselves."""
    with pytest.raises(ChatError) as refusal:
        decode_image(encoded(kind=kind, size=(16, 16)))
    assert refusal.value.code == "invalid_image"


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose header promises far more than its bytes hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_100, 12_000, 30_000])
def test_pixels_are_capped_by_the_header(side: int) -> None:
    """A picture with too many pixels is refused before one of them is decoded."""
    with pytest.raises(ChatError, match=r"megapixels|too many pixels") as refusal:
        decode_image(bomb(side, side))
    assert refusal.value.code == "invalid_image"


# Of one colour its pixels fit into a single chunk; this one has several.
NOISY = saved(Image.effect_noise((400, 400), 90))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        encoded(size=(400, 400))[:90],
        encoded(kind="JPEG")[:100],
        NOISY[:80_000],
        NOISY.replace(b"IDAT", b"\xffDAT").replace(b"\xffDAT", b"IDAT", 1),
        encoded()[:-12] + chunk(b"gAMA", b"\0") + chunk(b"IEND", b""),
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0" * 12),
    ],
    ids=["nothing", "magic", "PNG", "JPEG", "half", "chunk", "short chunk", "short header"],
)
def test_damage_is_a_bad_request(data: bytes) -> None:
    """A damaged picture is the client's mistake, not ours."""
    with pytest.raises(ChatError, match=r"cannot be decoded.*send") as refusal:
        decode_image(data)
    assert refusal.value.code == "invalid_image"


NOISE = Image.fromarray(np.random.default_rng(7).integers(0, 255, (40, 56, 4), np.uint8))
FILES = [
    saved(NOISE, "PNG"),
    saved(NOISE.convert("P"), "PNG"),
    saved(NOISE.convert("RGB"), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    saved(NOISE.convert("RGB"), "JPEG", progressive=True),
    saved(NOISE, "WEBP"),
    saved(NOISE, "GIF", save_all=True, append_images=[NOISE]),
]


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(FILES),
    keep=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
    detail=st.sampled_from(["auto", "low", "high"]),
)
def test_no_damage_escapes(
    data: bytes, keep: float, flips: list[tuple[float, int]], detail: Detail
) -> None:
    """Cut or altered anywhere, a file is a picture or a bad request, never another error."""
    damaged = bytearray(data)
    for place, value in flips:
        damaged[int(place * len(damaged))] = value
    try:
        assert decode_image(bytes(damaged[: int(keep * len(damaged))]), detail).mode == "RGB"
    except ChatError as error:
        refusal = error
    else:
        return
    assert refusal.code == "invalid_image"
