"""The parts of a message's content, as chat completions have them."""

from collections.abc import Mapping
from typing import Any, Final

from router.dialects.checks import clipped, list_at, malformed, object_at, text_at
from router.dialects.responses.refusal import unsupported

_TEXTS: Final = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
_PARTS: Final = ("input_text", "input_image", "input_audio", "input_file")
# What says where a prompt may be cached, in both protocols alike.
_BREAKPOINT = "prompt_cache_breakpoint"

Part = dict[str, Any]


def text_of_parts(content: Any, where: str, between: str) -> str:
    """Return the text of a content that may hold nothing else; `between` joins its parts.

    A refusal that an assistant is quoted with is what it said.
    """
    if isinstance(content, str):
        return content
    texts = []
    for number, each in enumerate(list_at(content, where)):
        place = f"{where}[{number}]"
        part = object_at(each, place)
        field = _TEXTS.get(text_at(part.get("type"), f"{place}.type"))
        if field is None:
            raise unsupported(
                place, f"a message of this role holds text alone, no {clipped(part['type'])}."
            )
        texts.append(text_at(part.get(field), f"{place}.{field}"))
    return between.join(texts)


def content_of(content: Any, where: str) -> str | list[Part]:
    """Return a user's content; a text alone stays one."""
    if isinstance(content, str):
        return content
    return plain(
        [part_of(part, f"{where}[{number}]") for number, part in _numbered(content, where)]
    )


def plain(parts: list[Part]) -> str | list[Part]:
    """Return parts as they are, but a text alone, or nothing at all, as a string."""
    if not parts:
        return ""
    alone = len(parts) == 1 and parts[0].keys() == {"type", "text"}
    return parts[0]["text"] if alone else parts


def parts_of(content: Any, where: str) -> list[Part]:
    """Return the parts of what a tool returned; a text alone is one."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part_of(part, f"{where}[{number}]") for number, part in _numbered(content, where)]


def part_of(given: Any, where: str) -> Part:
    """Return one part of a content."""
    part = object_at(given, where)
    match part.get("type"):
        case "input_text":
            made: Part = {"type": "text", "text": text_at(part.get("text"), f"{where}.text")}
        case "input_image":
            made = _image(part, where)
        case "input_audio":
            sound = object_at(part.get("input_audio"), f"{where}.input_audio")
            made = {"type": "input_audio", "input_audio": sound}
        case "input_file":
            made = _file(part, where)
        case _:
            raise malformed(f"{where}.type", f"one of {', '.join(_PARTS)}")
    return {**made, _BREAKPOINT: part[_BREAKPOINT]} if part.get(_BREAKPOINT) else made


def _numbered(content: Any, where: str) -> enumerate[Any]:
    return enumerate(list_at(content, where))


def _image(part: Mapping[str, Any], where: str) -> Part:
    if part.get("image_url") is None:
        raise unsupported(
            f"{where}.file_id",
            "it has no place for pictures that were uploaded. Send the picture itself, as a data: "
            "URI in image_url.",
        )
    image = {"url": text_at(part["image_url"], f"{where}.image_url")}
    if part.get("detail") is not None:
        image["detail"] = text_at(part["detail"], f"{where}.detail")
    return {"type": "image_url", "image_url": image}


def _file(part: Mapping[str, Any], where: str) -> Part:
    if part.get("file_url") is not None:
        raise unsupported(
            f"{where}.file_url",
            "it has no place for a file's address. Send the file itself, as a data: URI in "
            "file_data.",
        )
    if part.get("detail") not in (None, "auto"):
        raise unsupported(
            f"{where}.detail", "it cannot say how a file is to be drawn. Leave detail out."
        )
    given = {
        field: text_at(part[field], f"{where}.{field}")
        for field in ("file_data", "filename", "file_id")
        if part.get(field) is not None
    }
    if not given.keys() & {"file_data", "file_id"}:
        raise malformed(where, "a part with file_data")
    return {"type": "file", "file": given}
