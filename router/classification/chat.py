"""What a chat completion request needs."""

from collections.abc import Mapping
from typing import Any

from router.capabilities import Capability, Input, Needs, objects, some, text_of

_IMAGE_PARTS = frozenset({"image_url", "image", "input_image"})
INPUT_PARTS = {
    "input_audio": Input.AUDIO,
    "audio_url": Input.AUDIO,
    "audio": Input.AUDIO,
    "file": Input.FILE,
    "input_file": Input.FILE,
    "video_url": Input.VIDEO,
    "input_video": Input.VIDEO,
    "video": Input.VIDEO,
}
_KINDS = _IMAGE_PARTS.union(INPUT_PARTS)
SCHEMA_FORMATS = frozenset({"json_schema", "json_object"})
# The second is the older name of the first.
_TOOL_ROLES = frozenset({"tool", "function"})


def needs_of_chat(body: Mapping[str, Any]) -> Needs:
    """Return what a chat completion request needs."""
    needs = Needs()
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            _look_at_message(message, needs)
    if _offers_tools(body):
        needs.add(Capability.TOOL_USE)
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and text_of(response_format.get("type")) in SCHEMA_FORMATS:
        needs.add(Capability.STRUCTURED_OUTPUT)
    return needs


def is_picture(part: Mapping[str, Any]) -> bool:
    """Tell whether a part of a message's content is to be seen."""
    return kind_of(part) in _IMAGE_PARTS


def _offers_tools(body: Mapping[str, Any]) -> bool:
    """Tell whether the model may call tools; `functions` are what they were called before."""
    return (some(body.get("tools")) and body.get("tool_choice") != "none") or (
        some(body.get("functions"))
        and body.get("tool_choice") != "none"
        and body.get("function_call") != "none"
    )


def _look_at_message(message: Mapping[str, Any], needs: Needs) -> None:
    """Add what one message of a chat needs."""
    # Most have a role and a content and nothing else: what is not there is not looked at.
    if (
        text_of(message.get("role")) in _TOOL_ROLES
        or ("tool_calls" in message and some(message["tool_calls"]))
        or ("function_call" in message and isinstance(message["function_call"], dict))
    ):
        needs.add(Capability.TOOL_USE)
    content = message.get("content")
    if not isinstance(content, list):
        return
    for part in objects(content):
        if is_picture(part):
            needs.add_picture()
        elif (kind := kind_of(part)) in INPUT_PARTS:
            needs.add(INPUT_PARTS[kind])


def kind_of(part: Mapping[str, Any]) -> str:
    """Return what a part is: by its type, and where it tells none, by the field that it has.

    vLLM reads it so, and a picture that it sees must not have been taken for text.
    """
    kind = text_of(part.get("type"))
    return kind or next((name for name in part if name in _KINDS), "")
