"""OpenAI's chat completions on the wire: what a request may say, and how an answer is spelled."""

import base64
import binascii
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Finished, Sampling

# Documented caps of this backend; the router caps bytes and depth.
MAX_MESSAGES = 4096
MAX_IMAGES = 64
MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_STOPS = 16
MAX_STOP_CHARS = 256

# Refused unless they say nothing (0, false, null, empty): an answer that ignores them would lie.
_UNSUPPORTED = (
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "audio",
    "prediction",
    "frequency_penalty",
    "presence_penalty",
)

_WIRE = ConfigDict(extra="ignore", strict=True, frozen=True)


class TextPart(BaseModel):
    """A piece of text in a message."""

    model_config = _WIRE
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """Where an image lies; only `data:` URIs are taken."""

    model_config = _WIRE
    url: str


class ImagePart(BaseModel):
    """An image in a message."""

    model_config = _WIRE
    type: Literal["image_url"]
    image_url: ImageUrl


class OtherPart(BaseModel):
    """A part of a kind that no model here understands; named so that the refusal can say so."""

    model_config = _WIRE
    type: str


Part = Annotated[TextPart | ImagePart | OtherPart, Field(union_mode="left_to_right")]


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = _WIRE
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: Any = None
    function_call: Any = None


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = _WIRE
    include_usage: bool | None = None


class ChatBody(BaseModel):
    """The body of POST /v1/chat/completions; fields that are not named here are ignored."""

    model_config = _WIRE
    model: str = Field(min_length=1, max_length=512)
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Looked at only to be refused.
    n: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, Any] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request that this backend can serve, checked and in its own words."""

    model: str
    messages: tuple[dict[str, Any], ...]
    images: tuple[bytes, ...]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


def parse_chat(raw: bytes) -> ChatRequest:
    """Read a request body; ChatError for what is malformed, unsupported or refused."""
    body = _validate(_decode(raw))
    _refuse_unsupported(body)
    images: list[bytes] = []
    messages = tuple(
        _message(message, f"messages[{index}]", images)
        for index, message in enumerate(body.messages)
    )
    options = body.stream_options
    return ChatRequest(
        model=body.model,
        messages=messages,
        images=tuple(images),
        sampling=Sampling(body.temperature, body.top_p, body.top_k, body.min_p, body.seed),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=_stops(body.stop),
        stream=bool(body.stream),
        include_usage=bool(options and options.include_usage),
    )


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except RecursionError:
        raise ChatError("json_too_deep", "the body is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ChatError("invalid_json", f"the body is not valid JSON: {error}") from None


def _validate(value: Any) -> ChatBody:
    try:
        return ChatBody.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = _path(first["loc"])
        text = f"{param or 'the body'}: {first['msg']}"
        raise ChatError("invalid_request", text, param) from None


def _path(location: tuple[int | str, ...]) -> str | None:
    # A union's members are named in the location too (`content.list[...]`); they are no keys.
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and not step.endswith("Part") and step not in {"str", "float"}:
            path += f".{step}" if path else step
    return path or None


_ADVICE = "leave it out, or bind the capability to a provider that has it"


def _refuse_unsupported(body: ChatBody) -> None:
    refusals = (
        (
            "tools",
            body.tools and body.tool_choice != "none",
            "the builtin backend does not call tools yet",
        ),
        (
            "functions",
            body.functions and body.function_call != "none",
            "the builtin backend does not call functions yet",
        ),
        (
            "response_format",
            (body.response_format or {}).get("type", "text") != "text",
            "the builtin backend does not enforce JSON or a schema yet",
        ),
        ("n", body.n not in {None, 1}, "the builtin backend gives one choice a request"),
        (
            "modalities",
            body.modalities not in (None, [], ["text"]),
            "the builtin backend answers in text only",
        ),
        *(
            (param, getattr(body, param), f"{param} is not supported by the builtin backend")
            for param in _UNSUPPORTED
        ),
    )
    for param, refused, text in refusals:
        if refused:
            raise ChatError("unsupported_parameter", f"{text}; {_ADVICE}", param)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS or any(not 0 < len(text) <= MAX_STOP_CHARS for text in stops):
        raise ChatError(
            "invalid_request",
            f"stop: at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
            "stop",
        )
    return tuple(stops)


def _message(message: Message, where: str, images: list[bytes]) -> dict[str, Any]:
    if message.role in {"tool", "function"} or message.tool_calls or message.function_call:
        raise ChatError(
            "unsupported_parameter",
            f"{where}: the builtin backend does not take tool calls or their results yet; send"
            " the conversation to a provider that has them",
            where,
        )
    # Chat templates know `system`; `developer` is its newer name.
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": _content(message, where, images)}


def _content(message: Message, where: str, images: list[bytes]) -> str | list[dict[str, str]]:
    """Return a string wherever there is no image: some templates concatenate the content."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    parts: list[dict[str, str]] = []
    for index, part in enumerate(message.content):
        param = f"{where}.content[{index}]"
        match part:
            case TextPart(text=text):
                parts.append({"type": "text", "text": text})
            case ImagePart(image_url=source):
                if message.role != "user":
                    text = f"{param}: images belong to user messages"
                    raise ChatError("invalid_request", text, param)
                if len(images) >= MAX_IMAGES:
                    text = f"at most {MAX_IMAGES} images a request"
                    raise ChatError("too_many_images", text, param)
                images.append(_image_bytes(source.url, f"{param}.image_url.url"))
                parts.append({"type": "image"})
            case _:
                text = f"{param}: parts of type {part.type!r} are not supported; send text or"
                raise ChatError("unsupported_parameter", f"{text} image_url", param)
    if any(part["type"] == "image" for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def _image_bytes(url: str, param: str) -> bytes:
    head, comma, payload = url.partition(",")
    if not head[:5].lower() == "data:":
        raise ChatError(
            "image_url_not_allowed",
            "the builtin backend takes images as data: URIs only; send the bytes in base64",
            param,
        )
    if not comma or not head.lower().endswith(";base64"):
        raise ChatError("invalid_image", "a data: URI must hold base64", param)
    if len(payload) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        limit = f"an image may have at most {MAX_IMAGE_BYTES // 1024**2} MiB"
        raise ChatError("invalid_image", limit, param)
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise ChatError("invalid_image", "the image is not valid base64", param) from None
    if not _is_picture(data):
        raise ChatError(
            "invalid_image", "the image is none of PNG, JPEG, WebP and GIF by its content", param
        )
    return data


def _is_picture(data: bytes) -> bool:
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return webp or data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"))


def usage(end: Finished) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


class Wording:
    """Spells one answer, whole or as chunks; all of it shares an id and a time."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._shared = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }

    def completion(self, text: str, end: Finished) -> bytes:
        """Return the body of an answer that is not streamed."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}
        answer = {**self._shared, "object": "chat.completion", "choices": [choice]}
        return msgspec.json.encode({**answer, "usage": usage(end)})

    def role(self) -> bytes:
        """Return the first event of a stream."""
        return self._choice({"role": "assistant", "content": "", "refusal": None}, None)

    def text(self, text: str) -> bytes:
        """Return an event with more text."""
        return self._choice({"content": text}, None)

    def end(self, end: Finished) -> bytes:
        """Return the last events of a stream."""
        events = self._choice({}, end.reason)
        if self._include_usage:
            events += self._chunk(choices=[], usage=usage(end))
        return events + b"data: [DONE]\n\n"

    @staticmethod
    def error(error: ChatError) -> bytes:
        """Return the event that ends a stream which failed; nothing follows it."""
        return b"data: " + msgspec.json.encode(error.body()) + b"\n\n"

    def _choice(self, delta: dict[str, Any], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        # A client that asked for usage gets the field in every chunk, null but in the last.
        extra = {"usage": None} if self._include_usage else {}
        return self._chunk(choices=[choice], **extra)

    def _chunk(self, **fields: Any) -> bytes:
        chunk = {**self._shared, "object": "chat.completion.chunk", **fields}
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
