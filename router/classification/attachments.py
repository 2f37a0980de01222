"""Where the sound, the films and the files of a request lie, and what each of them is named by."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from router.capabilities import Dialect, text_of
from router.classification.chat import INPUT_PARTS, kind_of
from router.classification.messages import DOCUMENT_BLOCK
from router.classification.nesting import Place
from router.classification.parts import Kinds, parts_of
from router.classification.responses import INPUT_PARTS as INPUT_ITEMS

# Where servers look for what a part holds, in it or one object below; `file_id` is the name of what
# a provider keeps.
_NAMED_BY: Final = frozenset(
    {
        *("audio_url", "video_url", "file_url", "url", "uri", "path", "file_path"),
        *("audio", "video", "input_audio", "input_video", "file", "input_file", "source"),
        *("data", "file_data"),
    }
)
_KEPT: Final = "file_id"
_SCHEME: Final = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/\r\n]+={0,2}")
# No path is as long as that (PATH_MAX of Linux; it is 1024 elsewhere).
_LONGEST_PATH: Final = 4096


def named_elsewhere(dialect: Dialect | None, body: Mapping[str, Any]) -> Iterator[Place]:
    """Yield the places where a request names what is not in it: by an address, or by a path."""
    for part, place in parts_of(dialect, body, _KINDS):
        yield from _elsewhere(part, place)
        for key, value in part.items():
            if isinstance(value, dict):
                yield from _elsewhere(value, (*place, key))


def is_inline(text: str) -> bool:
    """Tell whether a text is what it stands for: a `data:` URI, or base64, and no address or path.

    A path may be spelled in the letters of base64; one from the root is told by its length alone.
    """
    if text[:5].lower() == "data:":
        return True
    if len(text) > _LONGEST_PATH:
        return _BASE64.fullmatch(text, 0, _LONGEST_PATH) is not None
    # Some programs write it in lines.
    letters = text.replace("\r", "").replace("\n", "")
    is_base64 = len(letters) % 4 == 0 and _BASE64.fullmatch(letters) is not None
    return not letters or (is_base64 and not letters.startswith("/"))


def _elsewhere(holder: Mapping[str, Any], place: Place) -> Iterator[Place]:
    for key, value in holder.items():
        if not isinstance(value, str):
            continue
        if key in _NAMED_BY:
            if not is_inline(value):
                yield (*place, key)
        elif key == _KEPT and _SCHEME.match(value):
            yield (*place, key)


def _is_document(block: Mapping[str, Any]) -> bool:
    """Tell whether a block is a document, and none that is written out: text, or further blocks."""
    source = block.get("source")
    is_written = isinstance(source, dict) and source.get("type") in ("text", "content")
    return text_of(block.get("type")) == DOCUMENT_BLOCK and not is_written


_KINDS: Final[Kinds] = {
    Dialect.CHAT: lambda part: kind_of(part) in INPUT_PARTS,
    Dialect.RESPONSES: lambda item: text_of(item.get("type")) in INPUT_ITEMS,
    Dialect.MESSAGES: _is_document,
}
