"""The system prompt and the turns of a conversation, put as the messages of a chat.

Two orders differ. A chat has the results of tools in messages of their own, which must come right
after the calls; here they stand in the user's turn. And many chat templates take a system message
only at the beginning, and turns only by turns: what the system says later is told in the user's
turn, and neighbours of one role become one message.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router.dialects.checks import (
    clipped,
    kind_at,
    malformed,
    object_at,
    objects_at,
    text_at,
    unless_null,
)
from router.dialects.messages.parts import (
    GAP,
    Block,
    Part,
    joined,
    parts_of,
    parts_of_block,
    text_part,
    texts_of,
)
from router.dialects.messages.refusal import check_known, refuse

# Claude Code's first block of a system prompt: for the accounts of Anthropic's own servers, which
# take it out before a model sees it. It is another one in each request, so that no beginning of a
# prompt would ever be known again.
_BILLING: Final = "x-anthropic-billing-header:"
# How Claude Code itself marks what is not the user's word in the user's turn.
_REMINDER: Final = "<system-reminder>\n{}\n</system-reminder>"
_MESSAGE_FIELDS: Final = frozenset({"role", "content"})
_SYSTEM_FIELDS: Final = frozenset({"role", "content", "clear_at", "output_config"})
_CALL_FIELDS: Final = frozenset({"type", "id", "name", "input", "cache_control", "caller"})
_RESULT_FIELDS: Final = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})


def chat_messages(fields: Mapping[str, Any], *, continued: bool = False) -> list[dict[str, Any]]:
    """Return the messages of the chat; with `continued` the last one may be the assistant's.

    Raises Refused for what is malformed or cannot be said.
    """
    turns = _Turns()
    system = fields.get("system")
    if system is not None:
        texts = texts_of(system, "system")
        turns.system += [text for text in texts if not text.startswith(_BILLING)]
    messages = list(objects_at(fields.get("messages"), "messages"))
    last = max((i for i, (_, each) in enumerate(messages) if each.get("role") == "user"), default=0)
    path = "messages"
    for index, (path, message) in enumerate(messages):
        turns.add(message, path, answered=index < last)
    chat = turns.end()
    if not turns.begun:
        raise malformed("messages", "a list of at least one message")
    if chat[-1]["role"] == "assistant" and not continued:
        refuse(path, "is the beginning of an answer, which not every chat server goes on with")
    return chat


class _Turns:
    """The conversation so far: `system` comes before all of it."""

    def __init__(self) -> None:
        self.system: list[str] = []
        self.begun = False
        self._chat: list[dict[str, Any]] = []
        self._user: _User | None = None
        self._assistant: _Assistant | None = None
        self._attached = 0

    def add(self, message: Block, path: str, *, answered: bool) -> None:
        """Take one message; `answered` says that one of the user's comes later."""
        role, content, where = message.get("role"), message.get("content"), f"{path}.content"
        check_known(message, _MESSAGE_FIELDS if role != "system" else _SYSTEM_FIELDS, path)
        match role:
            case "user":
                self._users(content, where)
            case "assistant":
                self._assistants(content, where)
            case "system":
                # An effort of its own is the hint that it is for a whole request.
                settings = unless_null(message.get("output_config"), {})
                config = object_at(settings, f"{path}.output_config")
                check_known(config, {"effort"}, f"{path}.output_config")
                texts = [] if content is None else texts_of(content, where)
                if message.get("clear_at") != "next_user_message" or not answered:
                    self._systems(texts)
            case _:
                raise malformed(f"{path}.role", "`user`, `assistant` or `system`")

    def end(self) -> list[dict[str, Any]]:
        """Return the messages of the chat."""
        self._end_turn()
        first = [{"role": "system", "content": GAP.join(self.system)}] if self.system else []
        return [*first, *self._chat]

    def _users(self, content: object, path: str) -> None:
        turn = self._user_turn()
        if isinstance(content, str):
            turn.parts += parts_of(content, path)
            return
        for below, block in objects_at(content, path):
            match kind_at(block, below):
                case "tool_result":
                    self._result(turn, block, below)
                case "mid_conv_system":
                    check_known(block, {"type", "content", "cache_control"}, below)
                    self._systems(texts_of(block.get("content"), f"{below}.content"))
                case _:
                    turn.parts += parts_of_block(block, below)

    def _systems(self, texts: list[str]) -> None:
        if not self.begun:
            self.system += texts
        else:
            self._user_turn().parts += [text_part(_REMINDER.format(text)) for text in texts]

    def _assistants(self, content: object, path: str) -> None:
        self.begun = True
        if self._assistant is None:
            self._assistant = _Assistant()
        self._assistant.add(content, path)

    def _result(self, turn: "_User", block: Block, path: str) -> None:
        """Take a tool's result; what is no text in it follows in the user's message."""
        check_known(block, _RESULT_FIELDS, path)
        call = text_at(block.get("tool_use_id"), f"{path}.tool_use_id")
        told = []
        content = block.get("content")
        for part in parts_of("" if content is None else content, f"{path}.content"):
            if part["type"] == "text":
                told.append(part["text"])
                continue
            self._attached += 1
            name = f"[attachment {self._attached}]"
            told.append(name)
            turn.parts += [text_part(f"{name} of a tool's result:"), part]
        text = GAP.join(told)
        if block.get("is_error"):
            text = f"Error: {text}"
        turn.results.append({"role": "tool", "tool_call_id": call, "content": text})

    def _user_turn(self) -> "_User":
        self.begun = True
        if self._assistant is not None:
            self._end_turn()
        if self._user is None:
            self._user = _User()
        return self._user

    def _end_turn(self) -> None:
        """Add what the user said, and what was answered to that."""
        if self._user is not None:
            self._chat += self._user.messages()
        if self._assistant is not None:
            self._chat.append(self._assistant.message())
        self._user = self._assistant = None


class _User:
    """What came between two answers: the results of tools, and what the user says besides."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.parts: list[Part] = []

    def messages(self) -> list[dict[str, Any]]:
        """Return the turn as messages, results first: they belong to the calls before."""
        if self.results and not self.parts:
            return self.results
        return [*self.results, {"role": "user", "content": joined(self.parts)}]


class _Assistant:
    """What an assistant said in one turn."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def add(self, content: object, path: str) -> None:
        """Take the content of one message."""
        if isinstance(content, str):
            self._texts.append(content)
            return
        said: list[str] = []
        for below, block in objects_at(content, path):
            match kind_at(block, below):
                case "text":
                    # Pieces of one text: it is cut where something is cited, or called.
                    said += [part["text"] for part in parts_of_block(block, below)]
                case "thinking":
                    check_known(block, {"type", "thinking", "signature"}, below)
                    self._thoughts.append(text_at(block.get("thinking"), f"{below}.thinking"))
                case "redacted_thinking":
                    # Encrypted: nobody but Anthropic's servers could read it.
                    check_known(block, {"type", "data"}, below)
                case "tool_use":
                    self._calls.append(_call(block, below))
                case kind:
                    refuse(
                        below, f"is a block {clipped(kind)!r}, which no chat completion can hold"
                    )
        self._texts.append("".join(said))

    def message(self) -> dict[str, Any]:
        """Return the turn as one message."""
        text = GAP.join(text for text in self._texts if text)
        thought = GAP.join(thought for thought in self._thoughts if thought)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thought:
            message["reasoning_content"] = thought
        if self._calls:
            # As OpenAI has it where there are calls alone.
            message["content"] = text or None
            message["tool_calls"] = self._calls
        return message


def _call(block: Block, path: str) -> dict[str, Any]:
    check_known(block, _CALL_FIELDS, path)
    caller = block.get("caller")
    if caller is not None and object_at(caller, f"{path}.caller").get("type") != "direct":
        refuse(f"{path}.caller", "is a server's tool, which no chat completion has")
    arguments = object_at(block.get("input"), f"{path}.input")
    return {
        "id": text_at(block.get("id"), f"{path}.id"),
        "type": "function",
        "function": {
            "name": text_at(block.get("name"), f"{path}.name"),
            "arguments": msgspec.json.encode(arguments).decode(),
        },
    }
