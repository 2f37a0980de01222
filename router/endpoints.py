"""The endpoints that models answer: for each path what it needs, and how its answers look.

The one table that the request path, the guard and `explain` read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from router.capabilities import Capability, Dialect, Needs, Requirement
from router.classification.chat import needs_of_chat
from router.classification.length import (
    characters_of_chat,
    characters_of_completion,
    characters_of_messages,
    characters_of_responses,
)
from router.classification.messages import needs_of_messages
from router.classification.pictures import check_count
from router.classification.responses import needs_of_responses
from router.errors import Refused
from router.sse import ChatStream, JsonStream, TypedStream

# Longer than any identifier, and than most paths, by which servers name their models.
_MAX_NAME = 1024
_EVENT = 1 << 20
# An event may hold a whole picture in base64.
_PICTURE_EVENT = 32 << 20
_PREFIX = "/v1"
# Every client of Anthropic's protocol says which version of it, at whatever path.
ANTHROPIC_VERSION: Final = b"anthropic-version"
_TRUE = frozenset({"true", "True", "1"})


class Answers(Enum):
    """What an answer that is no stream of events may be."""

    JSON = auto()
    # Whole like JSON, and it may be plain text too: subtitles.
    TEXT = auto()
    # Passed on as it comes.
    BYTES = auto()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path. `watch` makes what watches its streams of events; None where it has none.

    `streams` tells whether a request asks for a stream. With `form` the body is
    multipart/form-data, else JSON. Of the client's headers only `passed` go to the provider.
    `longest_event` is in bytes. `characters` counts the text of a prompt that has to fit as a
    whole; None where there is none.
    """

    path: str
    needs: Callable[[Mapping[str, Any]], Needs]
    dialect: Dialect | None = None
    watch: Callable[[], JsonStream] | None = None
    streams: Callable[[Mapping[str, Any]], bool] = lambda fields: fields.get("stream") is True
    answers: Answers = Answers.JSON
    form: bool = False
    passed: tuple[bytes, ...] = ()
    longest_event: int = _EVENT
    characters: Callable[[Mapping[str, Any]], int] | None = None

    @property
    def target(self) -> str:
        """What follows a provider's base_url."""
        return self.path.removeprefix(_PREFIX)

    def requirement(
        self, fields: Mapping[str, Any], *, max_images: int, local_only: bool = False
    ) -> Requirement:
        """Return what a request of these fields needs.

        Raises Refused `invalid_request` for a model's name that is none, `too_many_images`.
        """
        model = fields.get("model")
        _check_name(model)
        needs = self.needs(fields)
        check_count(needs.images, max_images)
        stream = self.watch is not None and self.streams(fields)
        # By position: names would cost a small request as much as all the rest of this.
        return Requirement(
            needs.levers, needs.inputs, model, stream, local_only, self.path, self.dialect
        )


def _check_name(model: object) -> None:
    """Refuse a `model` that is no name; none at all is as good as `auto`."""
    if model is None:
        return
    # The name goes into headers and logs, where a control character would end a line, and it is
    # remembered: a long one would be for long.
    if not isinstance(model, str) or len(model) > _MAX_NAME or not model.isprintable():
        raise Refused(
            "invalid_request",
            f"model must be a string of at most {_MAX_NAME} printable characters.",
            param="model",
        )


def _only(capability: Capability) -> Callable[[Mapping[str, Any]], Needs]:
    """Return the classification of an endpoint that is for one thing."""
    return lambda _fields: Needs(capability)


def _speaks_in_events(fields: Mapping[str, Any]) -> bool:
    return fields.get("stream_format") == "sse"


def _form_streams(fields: Mapping[str, Any]) -> bool:
    """Tell whether a form asks for a stream: its values are texts."""
    wanted = fields.get("stream")
    return wanted is True or (isinstance(wanted, str) and wanted in _TRUE)


_ALL = (
    Endpoint(
        "/v1/chat/completions",
        needs_of_chat,
        Dialect.CHAT,
        ChatStream,
        characters=characters_of_chat,
    ),
    Endpoint(
        "/v1/completions",
        _only(Capability.TEXT),
        watch=ChatStream,
        characters=characters_of_completion,
    ),
    Endpoint(
        "/v1/responses",
        needs_of_responses,
        Dialect.RESPONSES,
        partial(TypedStream, "response.completed", "response.failed", "response.incomplete"),
        longest_event=_PICTURE_EVENT,
        characters=characters_of_responses,
    ),
    Endpoint(
        "/v1/messages",
        needs_of_messages,
        Dialect.MESSAGES,
        partial(TypedStream, "message_stop"),
        passed=(ANTHROPIC_VERSION, b"anthropic-beta"),
        characters=characters_of_messages,
    ),
    Endpoint(
        "/v1/messages/count_tokens",
        needs_of_messages,
        Dialect.MESSAGES,
        passed=(ANTHROPIC_VERSION, b"anthropic-beta"),
    ),
    Endpoint("/v1/embeddings", _only(Capability.EMBEDDINGS)),
    Endpoint("/v1/rerank", _only(Capability.RERANK)),
    Endpoint(
        "/v1/images/generations",
        _only(Capability.IMAGE_GENERATION),
        # As many of them as pictures were asked for.
        watch=partial(TypedStream, "image_generation.completed", goes_on=True),
        longest_event=_PICTURE_EVENT,
    ),
    Endpoint(
        "/v1/audio/speech",
        _only(Capability.SPEECH),
        watch=partial(TypedStream, "speech.audio.done"),
        streams=_speaks_in_events,
        answers=Answers.BYTES,
    ),
    Endpoint(
        "/v1/audio/transcriptions",
        _only(Capability.TRANSCRIPTION),
        watch=partial(TypedStream, "transcript.text.done"),
        streams=_form_streams,
        answers=Answers.TEXT,
        form=True,
        passed=(b"content-type",),
    ),
)
ENDPOINTS: Final[Mapping[str, Endpoint]] = {endpoint.path: endpoint for endpoint in _ALL}
CHAT: Final = ENDPOINTS["/v1/chat/completions"]


def dialect_of(path: str) -> Dialect | None:
    """Return the dialect that errors at a path are told in."""
    endpoint = ENDPOINTS.get(path)
    return None if endpoint is None else endpoint.dialect
