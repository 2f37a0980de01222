"""What a request of OpenAI's responses protocol needs."""

from collections.abc import Mapping
from typing import Any

from router.capabilities import Capability, Input, Needs, objects, some, text_of
from router.classification.chat import SCHEMA_FORMATS
from router.classification.nesting import nested_objects

# A screenshot is what a model that drives a computer has to see.
IMAGE_PARTS = frozenset({"input_image", "computer_screenshot"})
INPUT_PARTS = {"input_audio": Input.AUDIO, "input_file": Input.FILE}
# function_call, custom_tool_call, computer_call …, and what came of them.
_CALLS = ("_call", "_call_output")


def needs_of_responses(body: Mapping[str, Any]) -> Needs:
    """Return what a responses request needs; what its `previous_response_id` held is not known."""
    needs = Needs()
    if some(body.get("tools")) and body.get("tool_choice") != "none":
        needs.add(Capability.TOOL_USE)
    given = body.get("input")
    if any(text_of(item.get("type")).endswith(_CALLS) for item in objects(given)):
        needs.add(Capability.TOOL_USE)
    for part in nested_objects(given):
        kind = text_of(part.get("type"))
        if kind in IMAGE_PARTS:
            needs.add_picture()
        elif kind in INPUT_PARTS:
            needs.add(INPUT_PARTS[kind])
    text = body.get("text")
    wanted = text.get("format") if isinstance(text, dict) else None
    if isinstance(wanted, dict) and text_of(wanted.get("type")) in SCHEMA_FORMATS:
        needs.add(Capability.STRUCTURED_OUTPUT)
    return needs
