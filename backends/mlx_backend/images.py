"""From the bytes of a picture to pixels, with caps that hold before anything is decoded."""

from io import BytesIO

from PIL import Image, ImageOps, UnidentifiedImageError

from backends.mlx_backend.errors import ChatError

MAX_PIXELS = 50_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture upright and in RGB, the first frame of an animation.

    The size is read from the header and checked before a pixel is decoded. ChatError
    `invalid_image` for anything that is no PNG, JPEG, WebP or GIF, or is damaged, or too large.
    """
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                limit = f"{max_pixels // 1_000_000} megapixels"
                text = f"an image may have at most {limit}; this one is {width} × {height}"
                raise ChatError("invalid_image", text)
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow has a cap of its own, twice ours; the warning is an error where warnings are.
        raise ChatError("invalid_image", "the image has too many pixels") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's decoders report damage by all of these.
        text = f"the image cannot be decoded: {type(error).__name__}"
        raise ChatError("invalid_image", text) from error
