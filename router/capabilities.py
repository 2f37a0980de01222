"""Which capabilities does this request need? Read from its structure only, never from its words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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


@dataclass(frozen=True, slots=True)
class Requirement:
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


_IMAGE_PARTS = frozenset({"image_url", "image", "input_image"})
_INPUT_PARTS = {"input_audio": Input.AUDIO, "file": Input.FILE, "video_url": Input.VIDEO}
_SCHEMA_FORMATS = frozenset({"json_schema", "json_object"})


def classify_chat(body: Mapping[str, Any], *, local_only: bool = False) -> Requirement:
    """Return what a chat completion request needs.

    Fields of an unexpected type need nothing: what they mean is for the provider to say.
    """
    levers: set[Capability] = set()
    inputs: set[Input] = set()
    for message in _dicts(body.get("messages")):
        if message.get("role") == "tool" or message.get("tool_calls"):
            levers.add(Capability.TOOL_USE)
        for part in _dicts(message.get("content")):
            kind = _text(part.get("type"))
            if kind in _IMAGE_PARTS:
                levers.add(Capability.VISION)
            elif kind in _INPUT_PARTS:
                inputs.add(_INPUT_PARTS[kind])
    if (body.get("tools") or body.get("functions")) and body.get("tool_choice") != "none":
        levers.add(Capability.TOOL_USE)
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and _text(response_format.get("type")) in _SCHEMA_FORMATS:
        levers.add(Capability.STRUCTURED_OUTPUT)
    if not levers:
        levers.add(Capability.TEXT)
    model = body.get("model")
    return Requirement(
        levers=tuple(capability for capability in Capability if capability in levers),
        inputs=tuple(kind for kind in Input if kind in inputs),
        model=model if isinstance(model, str) else None,
        stream=body.get("stream") is True,
        local_only=local_only,
    )


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list; nothing when it is no list."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _text(value: object) -> str:
    """Return a string as it is and anything else as "": a list cannot be looked up in a set."""
    return value if isinstance(value, str) else ""
