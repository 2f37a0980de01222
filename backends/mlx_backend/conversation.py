"""The messages of a request: checked, and turned into what chat templates take."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Detail, Picture

# Documented caps of this backend; the router caps bytes and depth.
MAX_MESSAGES = 4096
MAX_IMAGES = 64
# Unless the router says otherwise.
MAX_IMAGE_MB = 20
_MB = 1_000_000

WIRE = ConfigDict(extra="ignore", strict=True, frozen=True)


class TextPart(BaseModel):
    """A piece of text in a message."""

    model_config = WIRE
    text: str


class RefusalPart(BaseModel):
    """What an assistant said when it refused."""

    model_config = WIRE
    refusal: str


class ImageUrl(BaseModel):
    """Where an image lies, only `data:` URIs are taken, and how much of it should be seen."""

    model_config = WIRE
    url: str
    detail: Detail | None = None


class ImagePart(BaseModel):
    """An image in a message."""

    model_config = WIRE
    image_url: ImageUrl


class OtherPart(BaseModel):
    """A part of a kind that no model here understands; named so that the refusal can say so."""

    model_config = WIRE
    type: str


# The tags of unions stand in brackets: they are named in an error's location, and are no keys.
def _part_tag(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    # A list, not a set: what was sent need not be hashable.
    return f"({kind})" if kind in ["text", "refusal", "image_url"] else "(other)"


def _content_tag(content: Any) -> str:
    return "(parts)" if isinstance(content, list) else "(string)"


Part = Annotated[
    Annotated[TextPart, Tag("(text)")]
    | Annotated[RefusalPart, Tag("(refusal)")]
    | Annotated[ImagePart, Tag("(image_url)")]
    | Annotated[OtherPart, Tag("(other)")],
    Discriminator(_part_tag),
]
Content = Annotated[
    Annotated[str, Tag("(string)")] | Annotated[list[Part], Tag("(parts)")],
    Discriminator(_content_tag),
]


class CalledFunction(BaseModel):
    """The function that was called; `arguments` are JSON, as the API has it."""

    model_config = WIRE
    name: str = Field(min_length=1)
    arguments: str


class ToolCall(BaseModel):
    """A call that an assistant made."""

    model_config = WIRE
    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One turn of the conversation.

    What else an assistant's turn may carry, its reasoning for one, is not shown to the model again.
    """

    model_config = WIRE
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None


def read_messages(
    messages: Sequence[Message], max_image_mb: float = MAX_IMAGE_MB
) -> tuple[tuple[dict[str, Any], ...], tuple[Picture, ...]]:
    """Return the messages as chat templates want them, and their pictures in order.

    Content is a string wherever no picture is in it, never None: some templates concatenate it.
    Calls hold their arguments as objects, their results the name of the function. ChatError for
    what is malformed or cannot be shown to a model, or a picture of more bytes than it may have.
    """
    reader = _Reader(max_image_mb)
    read = tuple(
        reader.read(message, f"messages[{index}]") for index, message in enumerate(messages)
    )
    return read, tuple(reader.pictures)


class _Reader:
    """What the messages so far have brought: pictures, and calls by their ids."""

    def __init__(self, max_image_mb: float) -> None:
        self._max_image_mb = max_image_mb
        self.pictures: list[Picture] = []
        self._called: dict[str, str] = {}

    def read(self, message: Message, where: str) -> dict[str, Any]:
        content = self._content(message, where)
        match message.role:
            case "assistant":
                return self._assistant(message, content, where)
            case "tool" | "function":
                return self._result(message, content, where)
            case _ if message.tool_calls or message.function_call:
                text = f"{where}: calls of tools belong to assistant messages"
                raise ChatError("invalid_request", text, f"{where}.tool_calls")
            case "developer":
                # Chat templates know `system`; `developer` is its newer name.
                return {"role": "system", "content": content}
            case role:
                return {"role": role, "content": content}

    def _assistant(self, message: Message, content: Any, where: str) -> dict[str, Any]:
        calls = [
            self._call(call.id, call.function, f"{where}.tool_calls[{index}].function")
            for index, call in enumerate(message.tool_calls or ())
        ]
        if message.function_call:
            # The older form has no ids; its results name the function.
            call = message.function_call
            calls.append(self._call(call.name, call, f"{where}.function_call"))
        read = {"role": "assistant", "content": content or message.refusal or ""}
        return {**read, "tool_calls": calls} if calls else read

    def _call(self, call_id: str, function: CalledFunction, where: str) -> dict[str, Any]:
        self._called[call_id] = function.name
        arguments = _arguments(function.arguments, f"{where}.arguments")
        return {
            "id": call_id,
            "type": "function",
            "function": {"name": function.name, "arguments": arguments},
        }

    def _result(self, message: Message, content: Any, where: str) -> dict[str, Any]:
        key = "tool_call_id" if message.role == "tool" else "name"
        call_id = message.tool_call_id if message.role == "tool" else message.name
        if not call_id:
            text = f"{where}.{key}: a result must say which call it answers"
            raise ChatError("invalid_request", text, f"{where}.{key}")
        name = self._called.get(call_id)
        if name is None:
            text = (
                f"{where}: messages with role {message.role!r} must answer a call that an assistant"
                f" message before them made; there is none with {key} {call_id!r}"
            )
            raise ChatError("invalid_request", text, f"{where}.{key}")
        return {"role": "tool", "tool_call_id": call_id, "name": name, "content": content}

    def _content(self, message: Message, where: str) -> str | list[dict[str, str]]:
        if message.content is None or isinstance(message.content, str):
            return message.content or ""
        parts = list(self._parts(message, message.content, where))
        if any(part["type"] == "image" for part in parts):
            return parts
        return "\n".join(part["text"] for part in parts)

    def _parts(
        self, message: Message, parts: Sequence[Any], where: str
    ) -> Iterator[dict[str, str]]:
        for index, part in enumerate(parts):
            param = f"{where}.content[{index}]"
            match part:
                case TextPart(text=text) | RefusalPart(refusal=text):
                    yield {"type": "text", "text": text}
                case ImagePart(image_url=source):
                    if message.role != "user":
                        text = f"{param}: images belong to user messages"
                        raise ChatError("invalid_request", text, param)
                    self._take_picture(source, f"{param}.image_url.url")
                    yield {"type": "image"}
                case _:
                    text = f"{param}: parts of type {part.type!r} are not supported; send text or"
                    raise ChatError("unsupported_parameter", f"{text} image_url", param)

    def _take_picture(self, source: ImageUrl, param: str) -> None:
        if len(self.pictures) >= MAX_IMAGES:
            text = f"at most {MAX_IMAGES} images a request"
            raise ChatError("too_many_images", text, param)
        data = _image_bytes(source.url, self._max_image_mb, param)
        self.pictures.append(Picture(data, source.detail or "auto"))


def _arguments(text: str, param: str) -> dict[str, Any]:
    try:
        # Some servers leave the arguments of a function without parameters empty.
        arguments = msgspec.json.decode(text) if text.strip() else {}
    except RecursionError:
        raise ChatError("json_too_deep", f"{param}: nested too deep", param) from None
    except msgspec.DecodeError as error:
        message = f"{param}: the arguments of a call must be JSON: {error}"
        raise ChatError("invalid_request", message, param) from None
    if not isinstance(arguments, dict):
        message = f"{param}: the arguments of a call must be a JSON object"
        raise ChatError("invalid_request", message, param)
    return arguments


def _image_bytes(url: str, max_mb: float, param: str) -> bytes:
    head, comma, payload = url.partition(",")
    if not head[:5].lower() == "data:":
        raise ChatError(
            "image_url_not_allowed",
            "the builtin backend takes images as data: URIs only; send the bytes in base64",
            param,
        )
    if not comma or not head.lower().endswith(";base64"):
        raise ChatError("invalid_image", "a data: URI must hold base64", param)
    # By its length alone: so much need not be decoded, nor wait for a model, to be refused.
    if len(payload) * 3 // 4 - payload[-2:].count("=") > max_mb * _MB:
        limit = f"an image may have at most {max_mb:g} MB; send a smaller one"
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
