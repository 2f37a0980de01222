"""From the bytes of a picture to pixels, with caps that hold before anything is decoded."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Detail, Picture

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_ORIENTATION = 0x0112
# What undoes each orientation that a camera may note in its EXIF data; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's decoders report damage by all of these, as its own `Image.open` knows.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How much of a picture is taken in, and how much of it the model is shown.

    More than `max_pixels` is refused; how many bytes it may have was seen to when it was read out
    of its request. The longer side is scaled down to `max_side_px`, or to `low_side_px` where the
    client asks for low detail.
    """

    max_pixels: int = 50_000_000
    max_side_px: int = 1920
    low_side_px: int = 512

    def side_px(self, detail: Detail) -> int | None:
        """Return the longest side for a level of detail; None: as it is."""
        sides = {"auto": self.max_side_px, "low": self.low_side_px, "high": None}
        return sides[detail]


DEFAULT_LIMITS = ImageLimits()


def decode_image(
    data: bytes, detail: Detail = "auto", limits: ImageLimits = DEFAULT_LIMITS
) -> Image.Image:
    """Return the picture upright, in RGB, and no larger than its detail asks for.

    Of an animation it is the first frame; what is transparent becomes white, as on paper; colour
    profiles are ignored. The size is read from the header and checked before a pixel is decoded.
    May be called on any thread. ChatError `invalid_image` for anything that is no PNG, JPEG, WebP
    or GIF, or is damaged, or too large.
    """
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            _check_size(image, limits.max_pixels)
            shown = _over_white(_scaled(image, limits.side_px(detail)))
            # Only now: a PNG's notes may stand behind its pixels, and asking would decode them.
            if (turn := _UPRIGHT.get(_orientation(image))) is not None:
                shown = shown.transpose(turn)
            # An image processor that heeds the camera's notes would turn it a second time.
            shown.info.clear()
            return shown
    except UnidentifiedImageError as error:
        text = "the image cannot be decoded: it is none of PNG, JPEG, WebP and GIF, or its first"
        raise ChatError("invalid_image", f"{text} bytes are damaged; send it as PNG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow has a cap of its own, twice ours; the warning is an error where warnings are.
        text = "the image has too many pixels; scale it down"
        raise ChatError("invalid_image", text) from None
    except _DAMAGE as error:
        text = "the image cannot be decoded: it is damaged or cut short; send the whole file again"
        raise ChatError("invalid_image", text) from error


def decode_images(pictures: Sequence[Picture], limits: ImageLimits) -> list[Image.Image]:
    """Return all pictures of a request; ChatError for the first that is none."""
    return [decode_image(picture.data, picture.detail, limits) for picture in pictures]


def picture_hash(image: Image.Image) -> bytes:
    """Return 16 bytes that tell a decoded picture from every other one; may run on any thread."""
    size = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.blake2b(size + image.tobytes(), digest_size=16).digest()


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        limit = f"{max_pixels // 1_000_000} megapixels"
        size = f"{image.width} × {image.height}"
        text = f"an image may have at most {limit}; this one is {size}: scale it down"
        raise ChatError("invalid_image", text)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (*_DAMAGE, TypeError, KeyError):
        # What surrounds the picture is damaged, not the picture.
        return 1
    return value if isinstance(value, int) else 1


def _scaled(image: Image.Image, side_px: int | None) -> Image.Image:
    image = _filterable(image)
    longer = max(image.size)
    if side_px is None or longer <= side_px:
        return image
    # At least one pixel is left of a ribbon's shorter side.
    width, height = (max(1, round(side * side_px / longer)) for side in image.size)
    # Has a JPEG decoded at a half, a quarter or an eighth of its size, where that leaves half as
    # much again as is wanted: the filter still has its say, and a photo needs less memory.
    image.draft(None, (width * 3 // 2, height * 3 // 2))
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


def _filterable(image: Image.Image) -> Image.Image:
    """Return the picture in a mode whose neighbouring pixels can be mixed.

    A palette's numbers cannot, and 16-bit greys would be clipped to white by a later conversion.
    """
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in {"1", "P"}:
        return image.convert("RGB")
    return image


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode != "RGBA":
        return image.convert("RGB")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper
