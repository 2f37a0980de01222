"""Content that is neither a call nor its result: blocks of Anthropic's, put as parts of a chat."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from router.dialects.checks import clipped, kind_at, object_at, objects_at, text_at
from router.dialects.messages.refusal import check_known, refuse

Part = dict[str, Any]
Block = Mapping[str, Any]

# Between texts that were blocks of their own.
GAP: Final = "\n\n"
_PDF = "application/pdf"


def text_part(text: str) -> Part:
    """Return a part that is text."""
    return {"type": "text", "text": text}


def joined(parts: Sequence[Part]) -> str | list[Part]:
    """Return the content of a chat message: a text wherever that is all there is in it.

    Many servers and templates know texts alone, so neighbours are put together.
    """
    together: list[Part] = []
    for is_text, run in groupby(parts, lambda part: part["type"] == "text"):
        if is_text:
            together.append(text_part(GAP.join(part["text"] for part in run)))
        else:
            together += run
    if not together:
        return ""
    if len(together) == 1 and together[0]["type"] == "text":
        return str(together[0]["text"])
    return together


def parts_of(content: object, path: str) -> list[Part]:
    """Return the parts of a content: a text, or blocks that a user or a tool may say."""
    if isinstance(content, str):
        return [text_part(content)] if content else []
    return [
        part for below, block in objects_at(content, path) for part in parts_of_block(block, below)
    ]


def parts_of_block(block: Block, path: str) -> list[Part]:
    """Return the parts of one block; raises Refused for one that no chat completion can hold."""
    kind = kind_at(block, path)
    reader = _READERS.get(kind)
    if reader is None:
        refuse(path, f"is a block {clipped(kind)!r}, which no chat completion can hold")
    return reader(block, path)


def texts_of(content: object, path: str) -> list[str]:
    """Return the texts of a content that may hold nothing else: a system prompt's."""
    if isinstance(content, str):
        return [content] if content else []
    texts = []
    for below, block in objects_at(content, path):
        if kind_at(block, below) != "text":
            refuse(below, f"is a block {clipped(block['type'])!r} where only text can stand")
        texts += [part["text"] for part in _text(block, below)]
    return texts


def _text(block: Block, path: str) -> list[Part]:
    # What a text cites is told beside it; the text is the same without.
    check_known(block, {"type", "text", "cache_control", "citations"}, path)
    text = text_at(block.get("text"), f"{path}.text")
    return [text_part(text)] if text else []


def _image(block: Block, path: str) -> list[Part]:
    check_known(block, {"type", "source", "cache_control"}, path)
    where = f"{path}.source"
    source = object_at(block.get("source"), where)
    match kind_at(source, where):
        case "base64":
            check_known(source, {"type", "media_type", "data"}, where)
            url = _data_uri(source, where)
        case "url":
            check_known(source, {"type", "url"}, where)
            url = text_at(source.get("url"), f"{where}.url")
        case kind:
            refuse(
                where, f"is of type {clipped(kind)!r}, and only `base64` and `url` can be passed on"
            )
    return [{"type": "image_url", "image_url": {"url": url}}]


def _data_uri(source: Block, path: str) -> str:
    media_type = text_at(source.get("media_type"), f"{path}.media_type")
    return f"data:{media_type};base64,{text_at(source.get('data'), f'{path}.data')}"


def _document(block: Block, path: str) -> list[Part]:
    """Return a document: a PDF is a file in a chat too, and what is text is told as text."""
    known = {"type", "source", "title", "context", "citations", "cache_control"}
    check_known(block, known, path)
    _check_citations(block, path)
    told = {name: block.get(name) for name in ("title", "context")}
    where = f"{path}.source"
    source = object_at(block.get("source"), where)
    kind = kind_at(source, where)
    if kind == "base64" and source.get("media_type") == _PDF:
        check_known(source, {"type", "media_type", "data"}, where)
        return _file(source, told, path)
    if kind == "text":
        check_known(source, {"type", "media_type", "data"}, where)
        parts = [text_part(text_at(source.get("data"), f"{where}.data"))]
    elif kind == "content":
        check_known(source, {"type", "content"}, where)
        parts = parts_of(source.get("content"), f"{where}.content")
    else:
        refuse(where, f"is a document of type {clipped(kind)!r}, which no chat completion can hold")
    return _framed("document", told, parts, path)


def _file(source: Block, told: Block, path: str) -> list[Part]:
    title = text_at(told["title"] or "document.pdf", f"{path}.title")
    data = _data_uri(source, f"{path}.source")
    part: Part = {"type": "file", "file": {"filename": title, "file_data": data}}
    if not told["context"]:
        return [part]
    return [text_part(text_at(told["context"], f"{path}.context")), part]


def _search_result(block: Block, path: str) -> list[Part]:
    known = {"type", "source", "title", "content", "citations", "cache_control"}
    check_known(block, known, path)
    _check_citations(block, path)
    told = {name: block.get(name) for name in ("source", "title")}
    parts = parts_of(block.get("content"), f"{path}.content")
    return _framed("search_result", told, parts, path)


def _tool_reference(block: Block, path: str) -> list[Part]:
    # Every tool of the request is offered from the beginning, so it is there to be called.
    check_known(block, {"type", "tool_name", "cache_control"}, path)
    name = text_at(block.get("tool_name"), f"{path}.tool_name")
    return [text_part(f"The tool {name} can be called.")]


def _framed(tag: str, told: Block, parts: list[Part], path: str) -> list[Part]:
    """Return parts between tags, with what is told of them before.

    Tags are how Anthropic's guide to long prompts has documents marked in plain text.
    """
    lines = [
        f"<{name}>{text_at(value, f'{path}.{name}')}</{name}>"
        for name, value in told.items()
        if value
    ]
    first = text_part("\n".join([f"<{tag}>", *lines, "<content>"]))
    return [first, *parts, text_part(f"</content>\n</{tag}>")]


def _check_citations(block: Block, path: str) -> None:
    """Refuse the wish to have the answer cite; that it need not is said as well."""
    wanted = block.get("citations")
    if isinstance(wanted, dict) and wanted.get("enabled"):
        refuse(f"{path}.citations", "asks for citations, which no chat completion has")


_READERS: Final[Mapping[str, Callable[[Block, str], list[Part]]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_reference": _tool_reference,
}
