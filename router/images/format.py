"""What a picture is, by its first bytes, and how large it is, before anything decodes it.

PNG (W3C, third edition: APNG with it), JPEG (ITU-T T.81), GIF89a, WebP (RFC 9649).
"""

from typing import Final, NamedTuple

from router.errors import RouteFailed

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_GIF: Final = (b"GIF87a", b"GIF89a")
_JPEG: Final = b"\xff\xd8\xff"
# Beginnings of frames; these carry the size of the whole picture.
_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})
# No picture has a tenth as many segments before its size.
_MAX_SEGMENTS: Final = 1000
# Looking at each takes its time, and who decodes them takes more: an hour's film has fewer scenes.
_MAX_FRAMES: Final = 10_000
_ANIMATED: Final = 0x02


class Look(NamedTuple):
    """A picture's media type and its size; `frames` is 1 unless it moves."""

    media_type: str
    width: int
    height: int
    frames: int = 1

    @property
    def pixels(self) -> int:
        """How many pixels whoever decodes all of it would hold."""
        return self.width * self.height * self.frames


def look_at(data: bytes) -> Look:
    """Read the header of a picture; RouteFailed `invalid_image` for what is none, or is damaged."""
    try:
        look = _look_at(data)
    except IndexError:
        look = Look("", 0, 0)
    if look is None:
        raise RouteFailed(
            "invalid_image",
            "This is none of PNG, JPEG, WebP and GIF by its first bytes. Send it as one of them.",
        )
    if not look.pixels:
        raise RouteFailed(
            "invalid_image", "The picture is damaged or cut short. Send the whole file again."
        )
    return look


def _look_at(data: bytes) -> Look | None:
    if data.startswith(_PNG):
        return _png(data)
    if data.startswith(_JPEG):
        return _jpeg(data)
    if data.startswith(_GIF):
        return _gif(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _png(data: bytes) -> Look:
    if data[12:16] != b"IHDR":
        return Look("image/png", 0, 0)
    # By their names alone: what else has these four letters is one frame too many at most.
    frames = data.count(b"fcTL") if b"acTL" in data else 1
    return Look("image/png", _big(data, 16, 4), _big(data, 20, 4), max(1, frames))


def _jpeg(data: bytes) -> Look:
    at = 2
    for _ in range(_MAX_SEGMENTS):
        # Any number of these may stand before a marker.
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # noqa: PLR2004 the byte of a marker
            at += 1
        marker = data[at + 1]
        if data[at] != 0xFF or marker in {_SCAN, _END}:  # noqa: PLR2004 likewise
            break
        at += 2
        if marker in _WITHOUT_LENGTH:
            continue
        if marker in _START_OF_FRAME:
            return Look("image/jpeg", _big(data, at + 5, 2), _big(data, at + 3, 2))
        at += max(2, _big(data, at, 2))
    return Look("image/jpeg", 0, 0)


def _gif(data: bytes) -> Look:
    """Count the frames; one may reach beyond the screen, which then grows."""
    width, height, frames = _little(data, 6, 2), _little(data, 8, 2), 0
    at = 13 + _table(data[10])
    try:
        while (kind := data[at : at + 1]) in {b"!", b","} and frames <= _MAX_FRAMES:
            if kind == b"!":
                at = _after_blocks(data, at + 2)
                continue
            width = max(width, _little(data, at + 1, 2) + _little(data, at + 5, 2))
            height = max(height, _little(data, at + 3, 2) + _little(data, at + 7, 2))
            frames += 1
            at = _after_blocks(data, at + 11 + _table(data[at + 9]))
    except IndexError:
        # Cut short: what is there counts, and a decoder may show it.
        pass
    return Look("image/gif", width, height, frames if frames <= _MAX_FRAMES else 0)


def _table(flags: int) -> int:
    """Return the bytes of the table of colours that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    """Return where the blocks from here on, each with its length before it, have ended."""
    while size := data[at]:
        at += size + 1
    return at + 1


def _webp(data: bytes) -> Look:
    kind = data[12:16]
    if kind == b"VP8X":
        frames = data.count(b"ANMF") if data[20] & _ANIMATED else 1
        return Look("image/webp", _little(data, 24, 3) + 1, _little(data, 27, 3) + 1, frames)
    if kind == b"VP8L" and data[20] == 0x2F:  # noqa: PLR2004 its signature
        bits = _little(data, 21, 4)
        return Look("image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return Look("image/webp", _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF)
    return Look("image/webp", 0, 0)


def _big(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(_exactly(data, at, size), "big")


def _little(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(_exactly(data, at, size), "little")


def _exactly(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise IndexError(at)
    return data[at : at + size]
