"""Short texts that stand for pictures while a request is translated, until it leaves.

LiteLLM copies, searches and writes out all that it translates, which for a picture of 15 MB takes
a quarter of a second in which nobody else has a turn. Both clouds get the same base64 that came,
as a text within JSON, so that LiteLLM need not see it. Each stand-in goes in once and must come
out once: what LiteLLM would leave out in silence is told.
"""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from router.capabilities import Dialect
from router.classification.nesting import nested_objects
from router.classification.pictures import Reference, references
from router.errors import Unasked

# Whose requests hold the base64 as it is, and are not signed by LiteLLM.
_CLOUDS: Final = frozenset({"anthropic", "gemini"})
# For Google LiteLLM names a prompt that is to be kept by what it consists of: with a stand-in in it
# it would be kept anew, and paid for, each time.
_KEPT_BY_CONTENT: Final = "gemini"
_KEPT: Final = "cache_control"
_MARK: Final = ";base64,"
_MAX_HEAD: Final = 256
_ENCODER: Final = msgspec.json.Encoder()


class _StandIn(NamedTuple):
    """What stands for a picture, which is the inside of a text of JSON; `param` is its place."""

    text: bytes
    picture: bytes
    param: str


class StandIns:
    """The pictures of one chat, and what stands for each."""

    def __init__(self, pairs: tuple[_StandIn, ...] = ()) -> None:
        self._pairs = pairs

    def __repr__(self) -> str:
        return f"<StandIns {len(self._pairs)}>"

    async def put_back(self, body: bytes) -> bytes:
        """Return a request with the pictures in it; Unasked where it holds others than came."""
        found = []
        for pair in self._pairs:
            if body.count(pair.text) != 1:
                raise Unasked(
                    "unsupported_parameter",
                    "LiteLLM, which translates for this provider, would leave this picture out. "
                    "Show it in a message of the user, or of a tool.",
                    param=pair.param,
                )
            found.append((body.index(pair.text), pair))
        pieces: list[bytes] = []
        at = 0
        for begin, pair in sorted(found):
            pieces += (body[at:begin], pair.picture)
            at = begin + len(pair.text)
        if not pieces:
            return body
        # Which lets go of the interpreter where it is much.
        return await asyncio.to_thread(b"".join, (*pieces, body[at:]))


def stand_ins(chat: Mapping[str, Any], cloud: str | None) -> StandIns:
    """Take the pictures out of a chat, which is changed, and return what stands for them now."""
    if cloud not in _CLOUDS or (cloud == _KEPT_BY_CONTENT and _is_kept(chat)):
        return StandIns()
    shown = [each for each in references(Dialect.CHAT, chat) if "image_url" in each.place]
    return StandIns(tuple(pair for each in shown if (pair := _taken(chat, each))))


def _is_kept(chat: Mapping[str, Any]) -> bool:
    return any(_KEPT in each for each in nested_objects(chat.get("messages")))


def _taken(chat: Any, reference: Reference) -> _StandIn | None:
    """Put something short in a picture's place; None where that is no `data:` URI."""
    uri = reference.text
    at = uri.find(_MARK, 0, _MAX_HEAD) + len(_MARK)
    if uri[:5].lower() != "data:" or at < len(_MARK) or at == len(uri):
        return None
    # Letters of base64, four at a time, that nobody can know before.
    text = secrets.token_hex(16)
    holder = chat
    *way, last = reference.place
    for step in way:
        holder = holder[step]
    holder[last] = uri[:at] + text
    # Whoever sent it may have sent what would end the text.
    return _StandIn(text.encode(), _ENCODER.encode(uri[at:])[1:-1], reference.param)
