"""Pictures as a client sends them."""

import base64
import io
from typing import Any

from PIL import Image

RED, BLUE = (220, 30, 30), (30, 60, 220)


def encoded(
    colour: tuple[int, int, int] = RED,
    size: tuple[int, int] = (80, 60),
    kind: str = "PNG",
    **options: Any,
) -> bytes:
    """Return a picture of one colour in a file format."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **options)
    return out.getvalue()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """Return bytes as a base64 `data:` URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(url: str) -> dict[str, Any]:
    """Return a message part that shows an image."""
    return {"type": "image_url", "image_url": {"url": url}}


def question(text: str, *urls: str) -> list[dict[str, Any]]:
    """Return a conversation that asks about images."""
    parts = [image_part(url) for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
