"""What a request of Anthropic's messages protocol needs."""

from collections.abc import Mapping
from typing import Any

from router.capabilities import Capability, Input, Needs, some, text_of
from router.classification.nesting import nested_objects

_TOOL_BLOCKS = frozenset({"tool_use", "tool_result"})
# A document that is written out in the request: text, and pictures that count as such.
_TEXT_SOURCES = frozenset({"text", "content"})
# A tool's arguments are whatever the model made of its schema, and no blocks.
ARGUMENTS = "input"
IMAGE_BLOCK = "image"
DOCUMENT_BLOCK = "document"


def needs_of_messages(body: Mapping[str, Any]) -> Needs:
    """Return what a messages request needs."""
    needs = Needs()
    if some(body.get("tools")) and _kind_of(body.get("tool_choice")) != "none":
        needs.add(Capability.TOOL_USE)
    for block in nested_objects(body.get("messages"), skip=ARGUMENTS):
        kind = text_of(block.get("type"))
        if kind == IMAGE_BLOCK:
            needs.add_picture()
        elif kind == DOCUMENT_BLOCK and _kind_of(block.get("source")) not in _TEXT_SOURCES:
            needs.add(Input.FILE)
        elif kind in _TOOL_BLOCKS:
            needs.add(Capability.TOOL_USE)
    config = body.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else None
    if "json_schema" in {_kind_of(wanted), _kind_of(body.get("output_format"))}:
        needs.add(Capability.STRUCTURED_OUTPUT)
    return needs


def _kind_of(value: object) -> str:
    return text_of(value.get("type")) if isinstance(value, dict) else ""
