"""Pictures in base64: read from `data:` URIs, checked, and written.

A large one takes tens of milliseconds, and the codec holds the interpreter while it runs: piece by
piece, so that in a thread it keeps nobody waiting.
"""

import binascii
import re
from typing import Final, NamedTuple

import msgspec

from router.errors import RouteFailed
from router.images.format import Look, look_at
from router.images.rules import Rules

_HEAD: Final = re.compile(
    r"data:(?P<type>[a-z]+/[a-z0-9.+-]+)(?:;[a-z0-9.+-]+=[^;,\"]*)*;base64", re.IGNORECASE
)
_MAX_HEAD: Final = 256
# A multiple of four letters and of three bytes; a fraction of a millisecond.
_PIECE: Final = 3 << 16
_INVALID: Final = "invalid_image"
# Another name that programs give it.
_SAME: Final = {"image/jpg": "image/jpeg"}
_MB: Final = 1_000_000


class Encoded(NamedTuple):
    """A picture in base64 and its media type."""

    media_type: str
    text: str

    @property
    def uri(self) -> str:
        """The picture as a `data:` URI."""
        return f"data:{self.media_type};base64,{self.text}"


def is_data_uri(text: str) -> bool:
    """Tell whether this is a `data:` URI, a good one or not."""
    return text[:5].lower() == "data:"


def of_data_uri(uri: str) -> Encoded:
    """Return what a `data:` URI holds, unchecked; RouteFailed `invalid_image` where none can be."""
    comma = uri.find(",", 0, _MAX_HEAD)
    head = _HEAD.fullmatch(uri, 0, comma) if comma >= 0 else None
    if head is None:
        raise RouteFailed(
            _INVALID, "A picture's data: URI begins like data:image/png;base64, and base64 follows."
        )
    return Encoded(head["type"], uri[comma + 1 :])


def check(encoded: Encoded, rules: Rules) -> None:
    """Check that it is a picture within the limits, of the type that is declared.

    Raises RouteFailed `invalid_image`; the size is known before anything is decoded.
    """
    text = encoded.text
    if len(text) * 3 // 4 - text[-2:].count("=") > rules.max_bytes:
        raise too_large(rules.max_bytes)
    look = measure(_decoded(text), rules)
    declared = encoded.media_type.lower()
    if _SAME.get(declared, declared) != look.media_type:
        raise RouteFailed(
            _INVALID,
            f"The picture is {look.media_type} by its first bytes, and declared to be "
            f"{declared[:50] or 'nothing'}. Declare what it is.",
            quotes=True,
        )


def measure(data: bytes, rules: Rules) -> Look:
    """Return what a picture is and how large; RouteFailed `invalid_image` for one too large."""
    look = look_at(data)
    if look.pixels > rules.max_pixels:
        frames = f", in {look.frames} frames" if look.frames > 1 else ""
        raise RouteFailed(
            _INVALID,
            f"The picture has {look.width} × {look.height} pixels{frames}, and "
            f"{rules.max_pixels // _MB} million are allowed (images.max_megapixels). Scale it down"
            f"{', or send one frame of it' if frames else ''}.",
        )
    return look


def encode(data: bytes, look: Look) -> Encoded:
    """Return a picture in base64."""
    view = memoryview(data)
    pieces = (view[at : at + _PIECE] for at in range(0, len(data), _PIECE))
    text = b"".join([binascii.b2a_base64(piece, newline=False) for piece in pieces])
    return Encoded(look.media_type, text.decode("ascii"))


def too_large(max_bytes: int) -> RouteFailed:
    """Return the refusal of a picture whose file is too large."""
    return RouteFailed(
        _INVALID,
        f"A picture may have {max_bytes // _MB} MB at most (images.max_mb). Send a smaller one.",
    )


def _decoded(text: str) -> bytes:
    try:
        # msgspec's codec is as strict as binascii's, and three times as fast.
        pieces = [
            msgspec.convert(text[at : at + _PIECE], bytes) for at in range(0, len(text), _PIECE)
        ]
    except msgspec.ValidationError:
        pieces = []
    # Padding ends it: none may stand within.
    if any(len(piece) * 4 != _PIECE * 3 for piece in pieces[:-1]) or not pieces:
        raise RouteFailed(
            _INVALID, "The picture is not valid base64. Send its bytes in base64 alone."
        )
    return b"".join(pieces)
