"""Header fields as they stand on the wire, for both directions."""

from collections.abc import Iterable


def field_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as lines, each with its end.

    Raises ValueError when one would break out of its line.
    """
    lines = [b": ".join(pair) for pair in headers]
    text = b"".join(lines)
    # Looked for, not counted: that goes through the bytes many at a time.
    if b"\n" in text or b"\r" in text:
        raise ValueError("a header holds a line break")
    return b"\r\n".join([*lines, b""])
