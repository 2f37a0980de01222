"""Where the pictures of a request lie, and what each of them is named by."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from router.capabilities import Dialect, text_of
from router.classification.chat import is_picture
from router.classification.messages import IMAGE_BLOCK
from router.classification.nesting import Place, name_of
from router.classification.parts import Kinds, parts_of
from router.classification.responses import IMAGE_PARTS
from router.errors import Refused

# Where servers look for what a part shows; the first is OpenAI's own.
_NAMED_BY = ("image_url", "image", "url", "path", "base64")
_WITHIN = ("url", "path")


class Reference(msgspec.Struct, frozen=True):
    """What names a picture: a `data:` URI, an address, a path; at `place` in the body.

    `media_type` is what base64 that stands alone is said to be. With `is_source` the place holds
    an object of Anthropic's protocol, else a text.
    """

    place: Place
    text: str
    media_type: str | None = None
    is_source: bool = False

    def __repr__(self) -> str:
        # It is a part of a prompt.
        return f"<Reference at {self.param}>"

    @property
    def param(self) -> str:
        """The place as errors name it."""
        return name_of(self.place)


def references(dialect: Dialect | None, body: Mapping[str, Any]) -> tuple[Reference, ...]:
    """Return what names the pictures of a request.

    What a provider keeps itself (`file_id`) is not among it. One part may name several.
    """
    parts = parts_of(dialect, body, _KINDS)
    return tuple(reference for part, place in parts for reference in _of_part(part, place))


def check_count(images: int, most: int) -> None:
    """Refuse more pictures than one request may hold; Refused `too_many_images`."""
    if images > most:
        raise Refused(
            "too_many_images",
            f"The request holds {images} pictures, and {most} are allowed (limits.images). Ask "
            "with fewer at a time.",
        )


def _of_part(part: Mapping[str, Any], place: Place) -> Iterator[Reference]:
    for key in _NAMED_BY:
        value = part.get(key)
        if isinstance(value, str):
            yield Reference((*place, key), value)
        else:
            yield from (Reference((*place, key, inner), text) for inner, text in _within(value))
    source = part.get("source")
    here = (*place, "source")
    if isinstance(source, str):
        yield Reference(here, source)
    elif isinstance(source, dict) and isinstance(data := source.get("data"), str):
        yield Reference(here, data, text_of(source.get("media_type")), is_source=True)
    yield from (Reference(here, text, is_source=True) for _, text in _within(source))


def _within(value: object) -> Iterator[tuple[str, str]]:
    """Yield what an object names a picture by, and under which key."""
    if isinstance(value, dict):
        yield from ((key, text) for key in _WITHIN if isinstance(text := value.get(key), str))


_KINDS: Final[Kinds] = {
    Dialect.CHAT: is_picture,
    Dialect.RESPONSES: lambda item: text_of(item.get("type")) in IMAGE_PARTS,
    Dialect.MESSAGES: lambda block: text_of(block.get("type")) == IMAGE_BLOCK,
}
