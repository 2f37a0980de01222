"""The words for what a request needs and what a model can do."""

from collections.abc import Iterable
from enum import StrEnum

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


# What chat has no part in: each of them has endpoints of its own.
FAMILIES = frozenset(
    {
        Capability.EMBEDDINGS,
        Capability.SPEECH,
        Capability.TRANSCRIPTION,
        Capability.IMAGE_GENERATION,
        Capability.RERANK,
    }
)


class Input(StrEnum):
    """A further need that is a fact of models, but no lever."""

    AUDIO = "audio"
    FILE = "file"
    VIDEO = "video"


class Dialect(StrEnum):
    """A protocol that a conversation may be in; which of them a provider has is its own matter."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"


class Needs:
    """What was found in a request while it was looked through; `images` counts pictures."""

    __slots__ = ("found", "images")

    def __init__(self, *found: Capability | Input) -> None:
        self.found: set[Capability | Input] = set(found)
        self.images = 0

    def __repr__(self) -> str:
        return f"<Needs {sorted(self.found)} images={self.images}>"

    def add(self, need: Capability | Input) -> None:
        """Take note of a need."""
        self.found.add(need)

    def add_picture(self) -> None:
        """Take note of a picture to be seen."""
        self.found.add(Capability.VISION)
        self.images += 1

    @property
    def levers(self) -> tuple[Capability, ...]:
        """The levers in their order; what needs none of them needs text."""
        found = self.found
        # Most requests are text alone.
        if not found:
            return _TEXT_ONLY
        return tuple([lever for lever in _LEVERS if lever in found]) or _TEXT_ONLY

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs in their order."""
        found = self.found
        return tuple([kind for kind in _INPUTS if kind in found]) if found else ()


class Enforce(StrEnum):
    """What a binding does about the schema that an answer was asked for."""

    OFF = "off"
    VALIDATE = "validate"
    REPAIR = "repair"


class Requirement(msgspec.Struct, frozen=True):
    """What one request needs: levers in the order of `Capability`, inputs, a named model.

    `path` is the endpoint that was asked, `dialect` the one that its provider must have: None for
    endpoints that whoever speaks OpenAI's protocol may have.
    """

    levers: tuple[Capability, ...]
    inputs: tuple[Input, ...] = ()
    model: str | None = None
    stream: bool = False
    local_only: bool = False
    path: str = "/v1/chat/completions"
    dialect: Dialect | None = Dialect.CHAT

    @property
    def needs(self) -> tuple[str, ...]:
        """All that the serving model must be able to do."""
        return (*self.levers, *self.inputs)


_LEVERS = tuple(Capability)
_INPUTS = tuple(Input)
_TEXT_ONLY = (Capability.TEXT,)


def text_of(value: object) -> str:
    """Return a string as it is and anything else as "": a list cannot be looked up in a set."""
    return value if isinstance(value, str) else ""


def some(value: object) -> bool:
    """Tell a list that holds something; any other type is nothing to us."""
    return isinstance(value, list) and bool(value)


def objects(value: object) -> Iterable[dict[str, object]]:
    """Return the objects of a list, none of anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else ()
