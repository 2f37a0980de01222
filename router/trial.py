"""One trial of a model: what is asked of it, and what its answer shows. Pure.

Each trial asks for something that cannot be right by chance or by habit: a colour, a number, a key
that only who has seen the picture, the tool or the schema can know.
"""

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from router.capabilities import Capability

# The capabilities that can be tried, in the order in which they are.
TRIABLE: Final = (
    Capability.TEXT,
    Capability.VISION,
    Capability.TOOL_USE,
    Capability.STRUCTURED_OUTPUT,
)
# Far from one another, so that nobody can be of two minds about them.
COLOURS: Final = {
    "red": (220, 30, 30),
    "green": (30, 190, 50),
    "blue": (30, 60, 220),
    "yellow": (235, 220, 40),
}
_OTHER_COLOURS: Final = {"black", "white", "orange", "purple", "pink", "brown", "gray", "grey"}
_SIDE_PX = 64
# Models that think first need some; others end by themselves.
_TOKENS = 256
_SHORT = 16
_MAX_QUOTED = 80
_TOOL = "report_number"
_OK, _REFUSED, _FAILED = 200, range(400, 500), range(500, 600)
# Refusals that are about the caller, the place or the moment, and say nothing of the model.
_ELSEWHERE: Final = frozenset({401, 402, 403, 404, 405, 407, 408, 409, 413, 429})
_CANNOT = re.compile(r"support|enable|allow|capab|unknown variant|must be a string|mmproj|accept")
_WORDS: Final = {
    Capability.VISION: re.compile(r"image|multi-?modal|vision|picture"),
    Capability.TOOL_USE: re.compile(r"tool|function"),
    Capability.STRUCTURED_OUTPUT: re.compile(r"response_format|schema|structured|grammar|json"),
}


class Shown(Enum):
    """What one answer shows."""

    CAN = "can"
    REFUSED = "refused"
    IGNORED = "ignored"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What an answer shows, and in words why."""

    shown: Shown
    why: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A chat request without its model, and how its answer is judged: by status and content."""

    body: Mapping[str, Any]
    judge: Callable[[int, Any], Finding]


def text_trial() -> Trial:
    """Ask for a word."""

    def judge(status: int, answer: Any) -> Finding:
        message = _message(status, answer)
        said = message.get("content") or message.get("reasoning_content")
        if isinstance(said, str) and said.strip():
            return Finding(Shown.CAN, f"it said {_quoted(said)}")
        return Finding(Shown.NOTHING, _failure(status, answer) or "it said nothing")

    return Trial(_asked("Say hello in one word.", max_tokens=_SHORT), judge)


def vision_trial(colour: str) -> Trial:
    """Show a picture of one colour and ask which one it is."""

    def judge(status: int, answer: Any) -> Finding:
        message = _message(status, answer)
        if not message:
            return _refusal(Capability.VISION, status, answer)
        said = message.get("content")
        words = set(re.findall(r"[a-z]+", said.lower())) if isinstance(said, str) else set()
        if words & (COLOURS.keys() | _OTHER_COLOURS) == {colour}:
            return Finding(Shown.CAN, f"it saw {colour}")
        return Finding(Shown.NOTHING, f"it was shown {colour} and said {_quoted(said)}")

    url = "data:image/png;base64," + base64.b64encode(png(COLOURS[colour])).decode()
    content = [
        {"type": "text", "text": "What colour is this? Answer with one word."},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return Trial(_asked(content), judge)


def tool_trial(number: int, choice: str) -> Trial:
    """Offer a tool that takes a number and ask to have it called; `choice` is the tool_choice."""

    def judge(status: int, answer: Any) -> Finding:
        message = _message(status, answer)
        if not message:
            return _refusal(Capability.TOOL_USE, status, answer)
        arguments = _call_of(message)
        if arguments == {"number": number}:
            return Finding(Shown.CAN, f"it called the tool with tool_choice {choice}")
        if arguments is not None:
            return Finding(Shown.NOTHING, f"it called the tool with {_quoted(str(arguments))}")
        return _ignored(answer, f"it called no tool with tool_choice {choice}", message)

    parameters = {
        "type": "object",
        "properties": {"number": {"type": "integer"}},
        "required": ["number"],
    }
    tool = {"name": _TOOL, "description": "Reports a number.", "parameters": parameters}
    return Trial(
        {
            **_asked(f"Call the tool {_TOOL} with the number {number}."),
            "tools": [{"type": "function", "function": tool}],
            "tool_choice": choice,
        },
        judge,
    )


def schema_trial(key: str) -> Trial:
    """Ask for an answer by a schema whose key stands nowhere else."""

    def judge(status: int, answer: Any) -> Finding:
        message = _message(status, answer)
        if not message:
            return _refusal(Capability.STRUCTURED_OUTPUT, status, answer)
        content = message.get("content")
        value = _decoded(content)
        if isinstance(value, dict) and value.keys() == {key} and isinstance(value[key], bool):
            return Finding(Shown.CAN, "its answer has the schema's form")
        return _ignored(answer, "its answer has not the schema's form", message)

    schema = {
        "type": "object",
        # A number may have digits without end where a model has nothing to say.
        "properties": {key: {"type": "boolean"}},
        "required": [key],
        "additionalProperties": False,
    }
    return Trial(
        {
            **_asked("Has a cat got legs? Answer as JSON."),
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            },
        },
        judge,
    )


def settled(capability: Capability, findings: Collection[Finding], tries: int) -> bool | None:
    """Return what the findings so far prove: True, False, or None for nothing (yet).

    Who sees has to see in every one of `tries`; of tools and schemas once is enough, since a server
    may have them in one way and not in another. Who ignores them every time has not got them.
    """
    shown = [finding.shown for finding in findings]
    if Shown.REFUSED in shown:
        return False
    if capability is Capability.VISION:
        return True if shown.count(Shown.CAN) == tries else None
    if Shown.CAN in shown:
        return True
    return False if shown.count(Shown.IGNORED) == tries else None


def png(colour: tuple[int, int, int]) -> bytes:
    """Return a square picture of one colour."""
    row = b"\0" + bytes(colour) * _SIDE_PX
    header = struct.pack(">IIBBBBB", _SIDE_PX, _SIDE_PX, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * _SIDE_PX)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def error_text(answer: Any) -> str:
    """Return the message of an error in OpenAI's shape; empty where there is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    return text if isinstance(text, str) else ""


def _asked(content: object, max_tokens: int = _TOKENS) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}


def _message(status: int, answer: Any) -> Mapping[str, Any]:
    """Return the message of an answer; empty where it has none."""
    choice = _choice(answer) if status == _OK else {}
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def _choice(answer: Any) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _call_of(message: Mapping[str, Any]) -> Any:
    """Return the arguments of the one call of the tool; None where there is no such call."""
    match message.get("tool_calls"):
        case [{"function": {"name": str(name), "arguments": arguments}}] if name == _TOOL:
            return _decoded(arguments)
    return None


def _ignored(answer: Any, why: str, message: Mapping[str, Any]) -> Finding:
    said = f"{why}: {_quoted(message.get('content'))}"
    if _choice(answer).get("finish_reason") == "length":
        # What comes after so many tokens is anybody's guess.
        return Finding(Shown.NOTHING, f"{said}, cut off at {_TOKENS} tokens")
    return Finding(Shown.IGNORED, said)


def _refusal(capability: Capability, status: int, answer: Any) -> Finding:
    """Tell a refusal of what was asked for from any other failure."""
    text = error_text(answer).lower()
    named = _WORDS[capability].search(text) and _CANNOT.search(text)
    about_it = (status in _REFUSED and status not in _ELSEWHERE) or status in _FAILED
    shown = Shown.REFUSED if named and about_it else Shown.NOTHING
    return Finding(shown, _failure(status, answer) or "its answer has no message")


def _failure(status: int, answer: Any) -> str | None:
    if status == _OK:
        return None
    return f"it answered {status}: {_quoted(error_text(answer))}"


def _decoded(content: object) -> Any:
    try:
        return json.loads(content) if isinstance(content, str) else None
    except (ValueError, RecursionError):
        return None


def _quoted(said: object) -> str:
    """Return what a model said, short and on one line."""
    text = " ".join(said.split()) if isinstance(said, str) else ""
    if not text:
        return "nothing"
    return repr(text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…")
