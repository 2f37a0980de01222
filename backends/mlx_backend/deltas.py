"""From a model's text to what it means: content, reasoning and tool calls, while it comes.

Calls are written as Hermes and Qwen models do: `<tool_call>{"name": …, "arguments": {…}}
</tool_call>`, reasoning as `<think>…</think>` before the answer.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Any

import msgspec

THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
MARKERS = (CALL, END_CALL, THINK, END_THINK)

_CALL_BORDER = re.compile(f"{CALL}|{END_CALL}")
_MARKER = re.compile("|".join(MARKERS))
# Some models were taught the one word for them, some the other.
_ARGUMENTS = ("arguments", "parameters")
# The usual beginning of a call; from here on the arguments are passed on as they come.
_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\\x00-\x1f]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_NO_ARGUMENTS = "{}"


@dataclass(frozen=True, slots=True)
class Content:
    """More of what is said to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model tells itself before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A tool is called; `index` counts the calls of this answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON of a call's arguments."""

    index: int
    text: str


Delta = Content | Reasoning | CallBegun | CallArguments


def new_call_id() -> str:
    """Return an id as OpenAI spells them."""
    return f"call_{secrets.token_hex(12)}"


class _At(IntEnum):
    """What the text that is held is part of; looked up with each token, hence the fast kind."""

    START = auto()
    REASONING = auto()
    # Text in which nothing else can stand.
    TEXT = auto()
    # Text in which calls can stand.
    TEXT_OR_CALL = auto()
    CALL = auto()
    ARGUMENTS = auto()
    CALL_END = auto()


_IN_CALL = frozenset({_At.CALL, _At.ARGUMENTS, _At.CALL_END})


class AnswerParser:
    """Reads one answer; pure but for the ids of its calls.

    `tools`: calls are looked for; else whatever follows the reasoning is content, markers too.
    `thinking`: the prompt ended inside the reasoning. However the text is cut, the deltas say the
    same once joined. Content holds neither markers nor the white space around them. A call begins
    once its name and the brace of its arguments are there. What looks like a call and is none
    becomes content; nothing of an answer is lost but white space and markers.
    """

    def __init__(
        self, *, tools: bool, thinking: bool, new_id: Callable[[], str] = new_call_id
    ) -> None:
        self.calls = 0
        self._answer = _At.TEXT_OR_CALL if tools else _At.TEXT
        self._thinking = thinking
        self._new_id = new_id
        self._at = _At.START
        self._held = ""
        self._skips_space = False
        self._arguments = _ObjectText()
        self._deltas: list[Delta] = []
        self._steps = {
            _At.START: self._start,
            _At.REASONING: self._reason,
            _At.TEXT: self._text,
            _At.TEXT_OR_CALL: self._text_or_call,
            _At.CALL: self._call,
            _At.ARGUMENTS: self._call_arguments,
            _At.CALL_END: self._call_end,
        }

    def __repr__(self) -> str:
        return f"<AnswerParser at={self._at.name} calls={self.calls} held={len(self._held)}>"

    @property
    def reasons(self) -> bool:
        """Whether the text so far ends inside the reasoning."""
        return self._at is _At.REASONING or (self._at is _At.START and self._thinking)

    @property
    def calls_tool(self) -> bool:
        """Whether the text so far ends inside a call."""
        return self._at in _IN_CALL

    def push(self, text: str) -> list[Delta]:
        """Take more text; return what is now certain."""
        self._held += text
        return self._read(final=False)

    def finish(self) -> list[Delta]:
        """Return what is left at the end, be it in the middle of a call."""
        return self._read(final=True)

    def _read(self, *, final: bool) -> list[Delta]:
        while self._steps[self._at](final):
            pass
        deltas, self._deltas = self._deltas, []
        return deltas

    # Each step takes what it can of the held text, and returns whether another one is to follow.

    def _start(self, final: bool) -> bool:  # noqa: FBT001 the signature of every step
        text = self._held.lstrip()
        if text.startswith(THINK):
            self._go_on(_At.REASONING, text.removeprefix(THINK))
        elif not final and THINK.startswith(text):
            return False
        elif self._thinking:
            self._go_on(_At.REASONING, text)
        else:
            self._at = self._answer
        return True

    def _reason(self, final: bool) -> bool:  # noqa: FBT001 likewise
        text, marker, rest = self._held.partition(END_THINK)
        if marker:
            self._say(Reasoning, text.rstrip())
            self._go_on(self._answer, rest)
            return True
        self._say_certain(Reasoning, (END_THINK,), final=final)
        return False

    def _text(self, final: bool) -> bool:  # noqa: ARG002, FBT001 likewise
        text, self._held = self._held, ""
        self._say(Content, text)
        return False

    def _text_or_call(self, final: bool) -> bool:  # noqa: FBT001 likewise
        marker = _MARKER.search(self._held)
        if marker:
            self._say(Content, self._held[: marker.start()].rstrip())
            at = _At.CALL if marker[0] == CALL else _At.TEXT_OR_CALL
            self._go_on(at, self._held[marker.end() :])
            return True
        self._say_certain(Content, MARKERS, final=final)
        return False

    def _call(self, final: bool) -> bool:  # noqa: FBT001 likewise
        head = _HEAD.match(self._held)
        if head:
            self._begin_call(head["name"])
            self._arguments = _ObjectText()
            self._go_on(_At.ARGUMENTS, self._held[head.end() :])
            return True
        border = _CALL_BORDER.search(self._held)
        if border is None and not final:
            return False
        text = self._held[: border.start()] if border else self._held
        self._whole_call(text.strip())
        at = _At.CALL if border and border[0] == CALL else _At.TEXT_OR_CALL
        self._go_on(at, self._held[border.end() :] if border else "")
        return True

    def _whole_call(self, text: str) -> None:
        calls = _calls(text)
        for name, arguments in calls:
            self._begin_call(name)
            self._say_arguments(arguments)
        if text and not calls:
            self._deltas.append(Content(text))

    def _call_arguments(self, final: bool) -> bool:  # noqa: ARG002, FBT001 likewise
        text, self._held = self._arguments.take(self._held)
        self._say_arguments(text)
        if self._arguments.complete:
            self._at = _At.CALL_END
        return self._arguments.complete

    def _call_end(self, final: bool) -> bool:  # noqa: FBT001 likewise
        # The brace that closes the call, and its marker, which the text after it knows to drop.
        text = self._held.lstrip().removeprefix("}").lstrip()
        if text != END_CALL and END_CALL.startswith(text):
            if not final:
                return False
            text = ""
        self._go_on(_At.TEXT_OR_CALL, text)
        return True

    def _go_on(self, at: _At, text: str) -> None:
        self._at = at
        self._held = text
        self._skips_space = True

    def _say_certain(
        self, kind: type[Content | Reasoning], markers: tuple[str, ...], *, final: bool
    ) -> None:
        """Say what cannot be part of a marker, or of the white space before one."""
        border = len(self._held) if final else _certain(self._held, markers)
        text, self._held = self._held[:border], self._held[border:]
        self._say(kind, text)

    def _say(self, kind: type[Content | Reasoning], text: str) -> None:
        if self._skips_space:
            text = text.lstrip()
        if text:
            self._skips_space = False
            self._deltas.append(kind(text))

    def _begin_call(self, name: str) -> None:
        self._deltas.append(CallBegun(self.calls, self._new_id(), name))
        self.calls += 1

    def _say_arguments(self, text: str) -> None:
        if text:
            self._deltas.append(CallArguments(self.calls - 1, text))


def _certain(text: str, markers: tuple[str, ...]) -> int:
    border = text.rfind("<")
    if border < 0 or not any(marker.startswith(text[border:]) for marker in markers):
        border = len(text)
    return len(text[:border].rstrip())


class _ObjectText:
    """The text of one JSON object, whose end is found by its brackets and quotes."""

    def __init__(self) -> None:
        self.complete = False
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def take(self, text: str) -> tuple[str, str]:
        """Return what belongs to the object, and what follows it."""
        taken: list[str] = []
        for position, char in enumerate(text):
            if self._quoted:
                taken.append(self._quote(char))
            elif char == "<":
                # Stands nowhere in JSON but in strings: the object broke off before its end.
                self.complete = True
                return "".join(taken), text[position:]
            else:
                self._structure(char)
                taken.append(char)
            if self.complete:
                return "".join(taken), text[position + 1 :]
        return "".join(taken), ""

    def _quote(self, char: str) -> str:
        if char < " ":
            # A model that writes a line break into a string means one.
            self._escaped = False
            return msgspec.json.encode(char)[1:-1].decode()
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._quoted = False
        return char

    def _structure(self, char: str) -> None:
        if char == '"':
            self._quoted = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self.complete = self._depth == 0


def _calls(text: str) -> list[tuple[str, str]]:
    """Return names and arguments of a call or a list of calls; nothing where one is malformed."""
    value = _decoded(text)
    calls = value if isinstance(value, list) else [value]
    found = []
    for call in calls:
        name = call.get("name") if isinstance(call, dict) else None
        arguments = _arguments(call) if isinstance(name, str) and name else None
        if arguments is None:
            return []
        found.append((str(name), arguments))
    return found


def _arguments(call: dict[str, Any]) -> str | None:
    given = next((call[key] for key in _ARGUMENTS if key in call), None)
    if given is None:
        return _NO_ARGUMENTS
    if isinstance(given, str):
        text = given.strip() or _NO_ARGUMENTS
        return text if isinstance(_decoded(text), dict) else None
    return msgspec.json.encode(given).decode() if isinstance(given, dict) else None


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
