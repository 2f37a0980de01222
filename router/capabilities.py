"""Which capabilities does this request need? Read from its structure only, never from its words."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec


class Capability(StrEnum):
    """A lever of the map. The order of the first four is the order in which bindings are tried."""

    VISION = "vision"
    TOOL_USE = "tool_use"
    STRUCTURED_OUTPUT = "structured_output"
    TEXT = "text"
    EMBEDDINGS = "embeddings"
    SPEECH = "speech"
    TRANSCRIPTION = "transcription"
    IMAGE_GENERATION = "image_generation"
    RERANK = "rerank"


class Input(StrEnum):
    """A further need that is a fact of models, but no lever."""

    AUDIO = "audio"
    FILE = "file"
    VIDEO = "video"


class Requirement(msgspec.Struct, frozen=True):
    """What one request needs: levers in the order of `Capability`, inputs, a named model."""

    levers: tuple[Capability, ...]
    inputs: tuple[Input, ...] = ()
    model: str | None = None
    stream: bool = False
    local_only: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """All that the serving model must be able to do."""
        return (*self.levers, *self.inputs)


_LEVERS = tuple(Capability)
_INPUTS = tuple(Input)
_TEXT_ONLY = (Capability.TEXT,)
_IMAGE_PARTS = frozenset({"image_url", "image", "input_image"})
_INPUT_PARTS = {"input_audio": Input.AUDIO, "file": Input.FILE, "video_url": Input.VIDEO}
_SCHEMA_FORMATS = frozenset({"json_schema", "json_object"})


def classify_chat(body: Mapping[str, Any], *, local_only: bool = False) -> Requirement:
    """Return what a chat completion request needs.

    Fields of an unexpected type need nothing: what they mean is for the provider to say.
    """
    needs: set[Capability | Input] = set()
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            _look_at_message(message, needs)
    if (body.get("tools") or body.get("functions")) and body.get("tool_choice") != "none":
        needs.add(Capability.TOOL_USE)
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and _text(response_format.get("type")) in _SCHEMA_FORMATS:
        needs.add(Capability.STRUCTURED_OUTPUT)
    model = body.get("model")
    return Requirement(
        # Most requests are text alone.
        levers=tuple([lever for lever in _LEVERS if lever in needs]) or _TEXT_ONLY
        if needs
        else _TEXT_ONLY,
        inputs=tuple([kind for kind in _INPUTS if kind in needs]) if needs else (),
        model=model if isinstance(model, str) else None,
        stream=body.get("stream") is True,
        local_only=local_only,
    )


def _look_at_message(message: Mapping[str, Any], needs: set[Capability | Input]) -> None:
    """Add what one message of a chat needs."""
    if message.get("tool_calls") or message.get("role") == "tool":
        needs.add(Capability.TOOL_USE)
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = _text(part.get("type")) if isinstance(part, dict) else ""
        if kind in _IMAGE_PARTS:
            needs.add(Capability.VISION)
        elif kind in _INPUT_PARTS:
            needs.add(_INPUT_PARTS[kind])


def _text(value: object) -> str:
    """Return a string as it is and anything else as "": a list cannot be looked up in a set."""
    return value if isinstance(value, str) else ""
