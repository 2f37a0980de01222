"""A form of multipart/form-data: read once and strictly, and sent on as the bytes it had.

Only the part `model` is replaced. What two readers could take for different forms is refused: a
part that comes twice, a line that begins like a boundary and is none, anything before the first.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from router.errors import Refused

_PARTS = 1024
_PART_HEAD = 8 << 10
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"((?:[^"\\\r\n]|\\[^\r\n])*)"'
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(%b)=(?:%b|([^\s;\"]+))" % (_TOKEN, _QUOTED))
_KIND = re.compile(rb"multipart/form-data", re.IGNORECASE)
_DISPOSITION = re.compile(rb"form-data", re.IGNORECASE)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_LINE = re.compile(rb"(%b):[ \t]*([^\r\n\x00]*)" % _TOKEN)
_TEXT = re.compile(rb"text/plain([ \t]*;.*)?", re.IGNORECASE)
# What we read of a form; the rest is the provider's.
_READ = frozenset({b"model", b"stream"})
_MODEL = "model"


class FormBody(msgspec.Struct, frozen=True):
    """A form: the texts of the parts that matter to us, and where the model's name lies in it."""

    fields: Mapping[str, Any]
    data: bytes
    boundary: bytes
    model_at: tuple[int, int] | None

    def encode(self, changes: Mapping[str, str]) -> bytes:
        """Return the form with another `model`, which is all that can be changed in it.

        One that names this model already is returned as it is: it may hold an hour of sound.
        """
        if self.fields.get(_MODEL) == changes[_MODEL]:
            return self.data
        model = changes[_MODEL].encode()
        if self.model_at is None:
            head = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
            return b"".join((b"--", self.boundary, head, model, b"\r\n", self.data))
        start, end = self.model_at
        # The file in it is copied once.
        view = memoryview(self.data)
        return b"".join((view[:start], model, view[end:]))


class _Part(msgspec.Struct, frozen=True):
    """One part: the headers that matter, and where its content lies."""

    name: bytes
    is_text: bool
    start: int
    end: int


def decode_form(data: bytes, content_type: bytes) -> FormBody:
    """Read a form; raises Refused `invalid_request` which says what is wrong with it."""
    boundary = _boundary_of(content_type)
    fields: dict[str, str] = {}
    model_at = None
    for part in _parts(data, boundary):
        if part.name not in _READ:
            continue
        name = part.name.decode()
        if name in fields:
            raise _malformed(f"it has two parts named {name}", name)
        if not part.is_text:
            raise _malformed(f"its part {name} has to be plain text", name)
        try:
            fields[name] = data[part.start : part.end].decode()
        except UnicodeDecodeError:
            raise _malformed(f"its part {name} is not UTF-8", name) from None
        if name == _MODEL:
            model_at = part.start, part.end
    return FormBody(fields, data, boundary, model_at)


def _boundary_of(content_type: bytes) -> bytes:
    """Return the boundary that the header names."""
    found = [value for name, value in _parameters(content_type, _KIND) if name == b"boundary"]
    if len(found) != 1 or not _BOUNDARY.fullmatch(found[0]):
        raise _malformed("its Content-Type has to name one boundary")
    return found[0]


def _parameters(value: bytes, kind: re.Pattern[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the parameters of a header; raises Refused where it is not of this kind."""
    begun = kind.match(value)
    at = begun.end() if begun is not None else -1
    if begun is None:
        raise _malformed("a part is no form-data")
    while (parameter := _PARAMETER.match(value, at)) is not None:
        at = parameter.end()
        name, quoted, plain = parameter.groups()
        yield name.lower(), plain if quoted is None else quoted
    if value[at:].strip(b" \t;"):
        raise _malformed("a header of it cannot be read")


def _parts(data: bytes, boundary: bytes) -> Iterator[_Part]:
    """Yield the parts in order, until the boundary that ends the form."""
    line = b"--" + boundary
    if not data.startswith(line):
        raise _malformed("it does not begin with its boundary")
    delimiter = b"\r\n" + line
    at = len(line)
    for _ in range(_PARTS):
        after = data[at : at + 2]
        if after == b"--":
            if data[at + 2 : at + 5] not in {b"", b"\r\n"}:
                raise _malformed("something follows its end")
            return
        if after != b"\r\n":
            raise _malformed("a line begins like its boundary and is none")
        head_end = data.find(b"\r\n\r\n", at, at + _PART_HEAD)
        start = head_end + 4
        end = data.find(delimiter, start) if head_end >= 0 else -1
        if end < 0:
            raise _malformed("it breaks off, or a part of it has no headers that can be read")
        yield _part(data[at + 2 : head_end], start, end)
        at = end + len(delimiter)
    raise _malformed(f"it has more than {_PARTS} parts")


def _part(head: bytes, start: int, end: int) -> _Part:
    """Read the headers of a part."""
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        header = _LINE.fullmatch(line)
        if header is None or header[1].lower() in headers:
            raise _malformed("a part has headers that cannot be read")
        headers[header[1].lower()] = header[2].strip()
    disposition = list(_parameters(headers.get(b"content-disposition", b""), _DISPOSITION))
    names = [name for name, _ in disposition]
    told = dict(disposition)
    name = told.get(b"name")
    # Either spelling could be the name, to one reader or the other.
    if name is None or len(set(names)) != len(names) or b"name*" in told or b"\\" in name:
        raise _malformed("a part has no name, or one that can be read in two ways")
    is_text = (
        b"filename" not in told
        and b"filename*" not in told
        and b"content-transfer-encoding" not in headers
        and _TEXT.fullmatch(headers.get(b"content-type", b"text/plain")) is not None
    )
    return _Part(name, is_text, start, end)


def _malformed(what: str, param: str | None = None) -> Refused:
    return Refused("invalid_request", f"The form cannot be read: {what}.", param=param)
