"""The items of an input, as the messages of a chat.

What an assistant did between two others' turns (thought, said, called) is several items there and
one message here. Pictures among a tool's results follow those in a user's message: a tool's message
holds text alone.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router.dialects.checks import clipped, list_at, malformed, object_at, text_at, unless_null
from router.dialects.responses.parts import Part, content_of, parts_of, plain, text_of_parts
from router.dialects.responses.reasoning import reasoning_sent_back
from router.dialects.responses.refusal import unsupported
from router.dialects.responses.tools import arguments_of_custom, name_of

_ROLES: Final = ("user", "assistant", "system", "developer")
_PARAGRAPH: Final = "\n\n"


class _Turn:
    """What an assistant did in one go."""

    def __init__(self) -> None:
        self.thought: list[str] = []
        self.said: list[str] = []
        self.calls: list[dict[str, Any]] = []

    def message(self) -> dict[str, Any]:
        """Return it as a message. What was said after a call can only stand before it."""
        said = _PARAGRAPH.join(self.said)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": said if self.said or not self.calls else None,
        }
        if self.thought:
            message["reasoning_content"] = _PARAGRAPH.join(self.thought)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class Conversation:
    """The messages so far.

    `withheld` are the ids of reasoning items that only the server which made them can read.
    """

    def __init__(self) -> None:
        self.withheld: list[str] = []
        self._instructions: list[str] = []
        self._messages: list[dict[str, Any]] = []
        # What the assistant did last, while it may still do more.
        self._turn: _Turn | None = None
        # What tools have brought that their messages cannot hold.
        self._shown: list[Part] = []

    def __repr__(self) -> str:
        return f"<Conversation {[message['role'] for message in self.messages]}>"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of a chat; the instructions at the very beginning are one of them.

        Many templates take no second, and none that they call `developer`.
        """
        first = {"role": "system", "content": _PARAGRAPH.join(self._instructions)}
        return [first, *self._messages] if self._instructions else self._messages

    def instruct(self, text: str) -> None:
        """Add instructions; empty ones say nothing."""
        if not text:
            return
        self._next()
        if self._messages:
            self._messages.append({"role": "system", "content": text})
        else:
            self._instructions.append(text)

    def read(self, given: Any) -> None:
        """Add all of an `input`; Refused for what is malformed, or no message can say."""
        if isinstance(given, str):
            self._messages.append({"role": "user", "content": given})
            return
        for number, each in enumerate(list_at(given, "input")):
            where = f"input[{number}]"
            self._item(object_at(each, where), where)
        self._next()

    def _item(self, item: Mapping[str, Any], where: str) -> None:
        kind = item.get("type") or ("message" if "role" in item else None)
        match kind:
            case "message":
                self._message(item, where)
            case "reasoning":
                self._reason(item, where)
            case "function_call":
                arguments = text_at(item.get("arguments"), f"{where}.arguments")
                self._call(item, arguments or "{}", where)
            case "custom_tool_call":
                wanted = arguments_of_custom(text_at(item.get("input"), f"{where}.input"))
                self._call(item, msgspec.json.encode(wanted).decode(), where)
            case "function_call_output" | "custom_tool_call_output":
                self._result(item, where)
            case "item_reference":
                raise unsupported(
                    where, "no item is kept there. Send the item itself instead of a reference."
                )
            case str():
                raise unsupported(
                    where,
                    f"it has nothing for an item of type {clipped(kind)}. Leave it out of input.",
                )
            case _:
                raise malformed(f"{where}.type", "a string")

    def _message(self, item: Mapping[str, Any], where: str) -> None:
        content = item.get("content")
        match item.get("role"):
            case "user":
                self._ask(content, f"{where}.content")
            case "assistant":
                self._say(text_of_parts(content, f"{where}.content", ""))
            case "system" | "developer":
                self.instruct(text_of_parts(content, f"{where}.content", "\n"))
            case _:
                raise malformed(f"{where}.role", f"one of {', '.join(_ROLES)}")

    def _ask(self, content: Any, where: str) -> None:
        shown, self._shown = self._shown, []
        self._next()
        asked = [*shown, *parts_of(content, where)] if shown else content_of(content, where)
        self._messages.append({"role": "user", "content": asked})

    def _say(self, text: str) -> None:
        turn = self._assistant()
        if turn.said and not turn.calls:
            # Two messages in a row were two messages.
            self._next()
            turn = self._assistant()
        turn.said.append(text)

    def _reason(self, item: Mapping[str, Any], where: str) -> None:
        text = reasoning_sent_back(item, where)
        if text is None:
            self.withheld.append(str(item.get("id") or ""))
        elif text:
            turn = self._assistant()
            if turn.said and not turn.calls:
                # It led to what follows it.
                self._next()
                turn = self._assistant()
            turn.thought.append(text)

    def _call(self, item: Mapping[str, Any], arguments: str, where: str) -> None:
        caller = item.get("caller")
        if isinstance(caller, dict) and caller.get("type") != "direct":
            raise unsupported(f"{where}.caller", "it runs no programs that call tools.")
        name = text_at(item.get("name"), f"{where}.name")
        space = text_at(unless_null(item.get("namespace"), ""), f"{where}.namespace")
        call = {
            "id": text_at(item.get("call_id"), f"{where}.call_id"),
            "type": "function",
            "function": {"name": name_of(name, space), "arguments": arguments},
        }
        self._assistant().calls.append(call)

    def _result(self, item: Mapping[str, Any], where: str) -> None:
        call_id = text_at(item.get("call_id"), f"{where}.call_id")
        self._end_turn()
        texts: list[Part] = []
        for part in parts_of(item.get("output"), f"{where}.output"):
            if part["type"] == "text":
                texts.append(part)
                continue
            # Two parts each: its name, and itself.
            name = f"Attachment {len(self._shown) // 2 + 1}, of the result of call {call_id}"
            texts.append({"type": "text", "text": f"[{name}: in the message that follows]"})
            self._shown += [{"type": "text", "text": f"{name}:"}, part]
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": plain(texts)})

    def _assistant(self) -> _Turn:
        """Return the turn that is open, a new one if none is."""
        if self._turn is None:
            self._next()
            self._turn = _Turn()
        return self._turn

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._messages.append(self._turn.message())
            self._turn = None

    def _next(self) -> None:
        """End the assistant's turn, and show what tools have brought."""
        self._end_turn()
        if self._shown:
            self._messages.append({"role": "user", "content": self._shown})
            self._shown = []
