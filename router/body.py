"""A request's JSON body: read once, decoded once and strictly, and sent on as the bytes it had.

msgspec refuses what two parsers could read differently: bad UTF-8, a BOM, NaN, 1e999, lone
surrogates. The top level is joined anew from its raw values, so that a key given twice means the
same to us and to the provider, and nested bytes stay as the client wrote them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from router.classification.nesting import Place
from router.errors import Refused

_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
# Each value but the first of a container, and each container, has one of these before it.
_MARKS = (b"[", b"{", b"{", b",")
# Bytes of a body that are worked on within a millisecond: more are worked on in threads.
AT_ONCE: Final = 1 << 18
# No endpoint has a tenth as many fields; each of them is held twice, decoded and raw.
_TOP_LEVEL = 1024
_FEW = 256
_SHORT = 16 << 10
# Nothing is known of how long the others will take.
_RETRY_AFTER_S = b"1"


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """`size` in bytes, `depth` in containers, `values` as `[` and `,` and twice `{` together."""

    size: int
    depth: int
    values: int


class Buffered:
    """The bytes of all requests that are held together: never more than `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def __repr__(self) -> str:
        return f"<Buffered {self.held} of {self.limit} bytes>"

    def share(self) -> "Share":
        """Return one request's share, to be entered before its first byte is read."""
        return Share(self)


class Share:
    """What one request holds of it; leaving its `with` gives all of that back."""

    __slots__ = ("_buffered", "_held")

    def __init__(self, buffered: Buffered) -> None:
        self._buffered = buffered
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def add(self, size: int) -> None:
        """Hold so many bytes more; Refused `queue_full` where there is no room for them."""
        buffered = self._buffered
        if buffered.held + size > buffered.limit:
            raise Refused(
                "queue_full",
                f"Requests hold {buffered.held} bytes of {buffered.limit} already "
                "(limits.buffered_mb): ask again when some are done.",
                headers=((b"retry-after", _RETRY_AFTER_S),),
            )
        buffered.held += size
        self._held += size

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give everything back."""
        self._buffered.held -= self._held
        self._held = 0


class JsonBody(msgspec.Struct, frozen=True):
    """A decoded JSON object and the raw bytes of each top-level value that came with it."""

    fields: Mapping[str, Any]
    raw: Mapping[str, Any]

    def changed(self, changes: Mapping[str, Any], without: Collection[str] = ()) -> "JsonBody":
        """Return the object with these top-level values, and without those fields."""
        raw = {name: value for name, value in self.raw.items() if name not in without}
        fields = {name: value for name, value in self.fields.items() if name not in without}
        return JsonBody({**fields, **changes}, {**raw, **changes})

    def encode(self, changes: Mapping[str, Any]) -> bytes:
        """Return the object as bytes: `changes` encoded anew, every other value as it came."""
        return _ENCODER.encode({**self.raw, **changes})

    def with_values(self, values: Mapping[Place, Any]) -> "JsonBody":
        """Return the object with other values at some places; the bytes beside them stay.

        Each place is there, and none is within another.
        """
        fields, raw = dict(self.fields), dict(self.raw)
        for name, below in _by_first_step(values).items():
            fields[name] = _changed(fields[name], below)
            pieces: list[Any] = []
            _lay_out(raw[name], below, pieces)
            raw[name] = msgspec.Raw(b"".join(pieces))
        return JsonBody(fields, raw)


def _by_first_step(values: Mapping[Place, Any]) -> dict[Any, dict[Place, Any]]:
    """Return for each key or position the values below it."""
    below: dict[Any, dict[Place, Any]] = {}
    for (first, *rest), value in values.items():
        below.setdefault(first, {})[tuple(rest)] = value
    return below


def _changed(container: Any, values: Mapping[Place, Any]) -> Any:
    """Return a decoded value with others in it; what does not change is shared."""
    if () in values:
        return values[()]
    copy = container.copy()
    for step, below in _by_first_step(values).items():
        copy[step] = _changed(copy[step], below)
    return copy


def _lay_out(raw: msgspec.Raw, values: Mapping[Place, Any], pieces: list[Any]) -> None:
    """Add the bytes of a value with others in it; no deeper than the body's own depth.

    Pieces are joined once, at the top: each may be a picture.
    """
    if () in values:
        return pieces.append(_ENCODER.encode(values[()]))
    is_list = memoryview(raw)[0] == ord("[")
    parts: Any = (_RAW_LIST if is_list else _RAW_OBJECT).decode(raw)
    below = _by_first_step(values)
    mark = b"[" if is_list else b"{"
    for step, part in enumerate(parts) if is_list else parts.items():
        pieces += (mark,) if is_list else (mark, _ENCODER.encode(step), b":")
        mark = b","
        if step in below:
            _lay_out(part, below[step], pieces)
        else:
            pieces.append(part)
    return pieces.append(b"]" if is_list else b"}")


def decode(data: bytes, limits: BodyLimits) -> JsonBody:
    """Decode a JSON object strictly.

    Raises Refused `invalid_json`, `json_too_deep`, `too_many_values` or `invalid_request` (when it
    is JSON but no object).
    """
    # The decoded form of many small values is far larger than their bytes, so they are counted
    # before there is one; a body of fewer bytes has no need of it.
    # An object weighs twice what a list does.
    if (
        len(data) > limits.values // 2
        and sum(_count(data, mark) for mark in _MARKS) > limits.values
    ):
        raise Refused("too_many_values", f"The body holds more than {limits.values} values.")
    try:
        fields = _ANY.decode(data)
        if not isinstance(fields, dict):
            raise Refused("invalid_request", "The body must be a JSON object.")
        if len(fields) > _TOP_LEVEL:
            raise Refused("too_many_values", f"The body has more than {_TOP_LEVEL} fields.")
        # Fewer brackets than levels cannot be nested too deep; in a long body, walking is faster.
        if len(data) > _SHORT or data.count(b"[") + data.count(b"{") > limits.depth:
            _check_depth(fields, limits.depth)
        return JsonBody(fields, _RAW_OBJECT.decode(data))
    except RecursionError:
        raise _too_deep(limits.depth) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("invalid_json", f"The body is not valid JSON: {error}") from None


def _count(data: bytes, mark: bytes) -> int:
    """Return how often a byte occurs.

    Most of a large body is pictures in base64, where the next mark is far: looking for it is
    many times faster than counting. Where there are many, counting is.
    """
    at = -1
    for found in range(_FEW):
        at = data.find(mark, at + 1)
        if at < 0:
            return found
    return _FEW + data.count(mark, at + 1)


def _check_depth(fields: dict[str, Any], depth: int) -> None:
    """Walk the containers level by level, so that no input decides how deep we recurse."""
    level: list[Any] = [fields]
    for _ in range(depth):
        # Written out, as a comprehension would cost a small request twice as much.
        below = []
        for container in level:
            for child in container.values() if type(container) is dict else container:
                kind = type(child)
                if kind is dict or kind is list:
                    below.append(child)
        if not below:
            return
        level = below
    raise _too_deep(depth)


def _too_deep(depth: int) -> Refused:
    return Refused("json_too_deep", f"The body is nested more than {depth} levels deep.")
