"""The shape of a chat, looked at before LiteLLM gets it: what it does not expect makes it fail.

It fails by the same errors where it has a mistake of its own, so that only what is found here, and
what it refuses in so many words, can be told to be the request's fault. Fields and parts that are
not looked at here are not told apart by any shape that OpenAI's specification has.
"""

import posixpath
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router.dialects.checks import (
    kind_at,
    list_at,
    malformed,
    object_at,
    objects_at,
    text_at,
    unless_null,
)
from router.errors import Refused

# Where the head of a data: URI, or the scheme of an address, has come to its end.
_BEGINNING: Final = 128
# A dot and a letter.
_LEAST_ENDING: Final = 2
# Names under which a media type is told, to LiteLLM.
_FORMATS: Final = ("format", "mime_type", "content_type")
_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
# By field: the types that it may have, and how they are called.
_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    **dict.fromkeys(
        ("max_completion_tokens", "max_tokens", "n", "seed", "top_k", "top_logprobs"),
        ((int,), "a whole number"),
    ),
    **dict.fromkeys(
        ("frequency_penalty", "presence_penalty", "temperature", "top_p"),
        ((int, float), "a number"),
    ),
    **dict.fromkeys(
        ("audio", "logit_bias", "stream_options", "thinking", "web_search_options"),
        ((dict,), "an object"),
    ),
    **dict.fromkeys(
        ("function_call", "reasoning_effort", "tool_choice"), ((str, dict), "a string")
    ),
    **dict.fromkeys(("functions", "modalities"), ((list,), "a list")),
    "stop": ((str, list), "a string, or a list of strings"),
    "user": ((str,), "a string"),
}


def check_chat(fields: Mapping[str, Any]) -> None:
    """Look at the fields of a chat, none of them null; Refused `invalid_request` at its place."""
    for name, (types, what) in _TYPES.items():
        # By the type itself: true is no number.
        if name in fields and type(fields[name]) not in types:
            raise malformed(name, what)
    messages = list_at(fields.get("messages"), "messages")
    if not messages:
        raise malformed("messages", "a list of at least one message")
    for path, message in objects_at(messages, "messages"):
        _check_message(message, path)
    for path, tool in objects_at(fields.get("tools", []), "tools"):
        _check_tool(tool, path)
    form = object_at(fields.get("response_format", {"type": "text"}), "response_format")
    if kind_at(form, "response_format") == "json_schema":
        schema = object_at(form.get("json_schema"), "response_format.json_schema")
        object_at(schema.get("schema"), "response_format.json_schema.schema")


def _check_message(message: Mapping[str, Any], path: str) -> None:
    role, content, where = message.get("role"), message.get("content"), f"{path}.content"
    if role not in _ROLES:
        raise malformed(f"{path}.role", f"one of {', '.join(_ROLES)}")
    if isinstance(content, list):
        for below, part in objects_at(content, where):
            _check_part(part, below)
    elif not isinstance(content, str) and not (content is None and role == "assistant"):
        raise malformed(where, "a string or a list of parts")
    # What a model has drawn: LiteLLM reads it back.
    for below, image in objects_at(unless_null(message.get("images"), []), f"{path}.images"):
        _check_picture(image.get("image_url"), f"{below}.image_url")
    if role == "tool":
        text_at(message.get("tool_call_id"), f"{path}.tool_call_id")
    if message.get("tool_calls") is not None:
        for below, call in objects_at(message["tool_calls"], f"{path}.tool_calls"):
            _check_call(call, below)


def _check_part(part: Mapping[str, Any], path: str) -> None:
    match kind_at(part, path):
        case "text":
            text_at(part.get("text"), f"{path}.text")
        case "image_url":
            _check_picture(part.get("image_url"), f"{path}.image_url")
        case "input_audio" | "file" as kind:
            object_at(part.get(kind), f"{path}.{kind}")
            if kind == "file" and not part["file"].keys() & {"file_data", "file_id"}:
                raise malformed(f"{path}.file", "an object with file_data or file_id")
            for name in ("file_data", "file_id"):
                _check_bucket(part[kind].get(name), part[kind], f"{path}.{kind}.{name}")


def _check_picture(image: object, path: str) -> None:
    if isinstance(image, dict):
        _check_address(image.get("url"), f"{path}.url")
        _check_bucket(image["url"], image, f"{path}.url")
    else:
        _check_address(image, path)
        _check_bucket(image, {}, path)


def _check_bucket(address: object, holder: Mapping[str, Any], path: str) -> None:
    """Refuse what LiteLLM itself would ask Google's storage for: of which type something is."""
    if not isinstance(address, str) or "gs://" not in address:
        return
    ending = posixpath.splitext(address)[1]
    if len(ending) < _LEAST_ENDING and not any(holder.get(name) for name in _FORMATS):
        raise Refused(
            "unsupported_parameter",
            f"{path} does not tell of which type it is, and nobody is asked. Add `format`, its "
            "media type, beside it.",
            param=path,
        )


def _check_address(value: object, path: str) -> None:
    begin = text_at(value, path)[:_BEGINNING]
    if "://" not in begin and not (begin[:5].lower() == "data:" and "," in begin):
        raise malformed(path, "a data: URI or an address")


def _check_call(call: Mapping[str, Any], path: str) -> None:
    function = object_at(call.get("function"), f"{path}.function")
    text_at(function.get("name"), f"{path}.function.name")
    arguments = text_at(function.get("arguments"), f"{path}.function.arguments")
    try:
        is_object = not arguments.strip() or isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        is_object = False
    if not is_object:
        raise malformed(f"{path}.function.arguments", "a JSON object, as a string")


def _check_tool(tool: Mapping[str, Any], path: str) -> None:
    # Others are the cloud's own.
    if kind_at(tool, path) == "function":
        function = object_at(tool.get("function"), f"{path}.function")
        text_at(function.get("name"), f"{path}.function.name")
        if function.get("parameters") is not None:
            object_at(function["parameters"], f"{path}.function.parameters")
