"""What a translated call is made of: which fields of a chat go into it, and how errors come out.

LiteLLM takes several hundred arguments: addresses, keys, files, callbacks, invented answers. A
field of a request becomes one of them only where it stands in the list here.
"""

import re
from typing import Any, Final

import msgspec

# What the translated providers understand, or LiteLLM says that they do not. Left out on purpose:
# `metadata` and `store`, which LiteLLM keeps for itself, and `service_tier`, which says a priority
# here.
_PASSED: Final = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "stop",
        "stream_options",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
_JSON: Final = msgspec.json.Decoder()
_ERROR_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_SERVER_ERROR: Final = 500
# How LiteLLM's own texts begin: with the name of a class, or of several.
_PREFIX: Final = re.compile(r"^(?:(?:litellm\.)?[A-Z]\w*(?:Error|Exception)(?::| -) )+")
# And how advice begins that follows, to those who set it up.
_ADVICE: Final = re.compile(r" (?:To drop |File an issue |Either provide one, or set )")
_MAX_TEXT: Final = 2000
_REMOVED: Final = "[key]"
# Line ends to a reader of lines that goes by Unicode, and none to JSON and to server-sent events:
# NEL, and the separators of lines and of paragraphs.
_ALIEN_LINE_ENDS: Final = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)
_BEGINS: Final = (b"\xe2\x80", b"\xe2", b"\xc2")


class Untranslatable(Exception):
    """A request holds what has no counterpart; the text says what."""


def arguments_of(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return a chat's model, and its fields that are to be translated; null is as good as none.

    Raises Untranslatable.
    """
    fields = _JSON.decode(body)
    told = {name: value for name, value in fields.items() if name in _PASSED and value is not None}
    if fields.get("stream") is True:
        told["stream"] = True
    if isinstance(tools := told.get("tools"), list):
        _check_tools(tools)
    if not isinstance(told.get("web_search_options", {}), dict):
        # Before anything in which LiteLLM would tell what is wrong.
        raise Untranslatable("web_search_options must be an object.")
    return fields["model"], told


def _check_tools(tools: list[Any]) -> None:
    for tool in tools:
        # LiteLLM would take some of the first for its own to run, and knows none of the second.
        if isinstance(tool, dict) and tool.get("type") in ("mcp", "custom"):
            raise Untranslatable(f"tools of type {tool['type']} cannot be translated.")


def error_body(status: int, text: str, code: str | None) -> bytes:
    """Return an error in OpenAI's shape."""
    fallback = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    kind = _ERROR_TYPES.get(status, fallback)
    error = {"message": text, "type": kind, "param": None, "code": code}
    return msgspec.json.encode({"error": error})


def words_of(body: bytes) -> tuple[str, str | None]:
    """Return what a provider's error says in its own dialect: its text, and its name for it.

    Anthropic has `{"error": {"type": …, "message": …}}`, Google `{"error": {"status": …, …}}`, in a
    list where a stream was asked for; AWS `{"message": …}`.
    """
    try:
        decoded = _JSON.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", None
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]
    if not isinstance(decoded, dict):
        return "", None
    error = decoded.get("error")
    error = error if isinstance(error, dict) else decoded
    text, code = error.get("message"), error.get("status") or error.get("type")
    return (
        text if isinstance(text, str) else "",
        code if isinstance(code, str) else None,
    )


def plain_words(text: str) -> str:
    """Return what LiteLLM says of an error, less what is for its own users: traces and advice."""
    line = text.strip().partition("\n")[0]
    line = _ADVICE.split(_PREFIX.sub("", line), maxsplit=1)[0]
    return line.strip() or "no reason was given"


def without(secret: str | None, text: str) -> str:
    """Return a text without a key that it repeats, short enough to be read."""
    safe = text.replace(secret, _REMOVED) if secret else text
    return safe[:_MAX_TEXT]


class LineEnds:
    """Escapes in the JSON of a stream's events what a reader by Unicode would take for line ends.

    Inside a string of JSON the escape means the same, and elsewhere these do not occur.
    """

    def __init__(self) -> None:
        self._held = b""

    def __repr__(self) -> str:
        return f"<LineEnds held={len(self._held)}>"

    def feed(self, data: bytes) -> bytes:
        """Return the bytes so far, less the beginning of what may be one of these."""
        data = self._held + data
        self._held = next((begin for begin in _BEGINS if data.endswith(begin)), b"")
        data = data[: len(data) - len(self._held)]
        for alien, escaped in _ALIEN_LINE_ENDS:
            if alien in data:
                data = data.replace(alien, escaped)
        return data

    def rest(self) -> bytes:
        """Return what was held back, at the end."""
        held, self._held = self._held, b""
        return held


def chunk_body(chunk: dict[str, Any]) -> bytes:
    """Return a chunk as OpenAI spells it: one that tells nothing but tokens has no choice."""
    choices = chunk.get("choices")
    if chunk.get("usage") and isinstance(choices, list):
        chunk = {**chunk, "choices": [each for each in choices if _says_something(each)]}
    return msgspec.json.encode(chunk)


def _says_something(choice: dict[str, Any]) -> bool:
    return bool(choice.get("finish_reason") or choice.get("delta"))


def event(data: bytes) -> bytes:
    """Return one server-sent event."""
    return b"data: " + data + b"\n\n"
