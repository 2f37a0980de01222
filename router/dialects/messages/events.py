"""The events of a message that is streamed, made of the chunks of a chat's stream.

Blocks come one after the other in Anthropic's protocol, each begun, continued and ended. Pieces of
a chat come in any order, those of several calls by turns. So one block is open at a time and sent
as its pieces come; what belongs to later ones waits until the open one is known to have ended: a
text when something else comes, a call when its arguments are a whole JSON object.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from router.dialects.calls import Call, Called
from router.dialects.messages.answer import (
    arguments_of,
    message,
    read_arguments,
    stop_of,
    thinking_block,
    tool_use_block,
    usage_told,
)
from router.dialects.pieces import Piece, Reader, Said
from router.dialects.shapes import invalid

_NO_ARGUMENTS = "{}"


class _Block(msgspec.Struct):
    """One block: the pieces that are still to be sent, and all those of a `call`'s arguments.

    `first` and `last` are the characters at the arguments' ends, where white space counts for none.
    """

    kind: Literal["thinking", "text", "tool_use"]
    call: Call | None = None
    unsent: list[str] = msgspec.field(default_factory=list)
    pieces: list[str] = msgspec.field(default_factory=list)
    first: str = ""
    last: str = ""
    # None as long as nobody has looked whether the arguments so far are whole.
    is_complete: bool | None = None
    begun: bool = False
    ended: bool = False

    def add(self, text: str) -> None:
        """Take a piece. StreamFailed for one that comes after the end."""
        if self.ended:
            if text.strip():
                raise invalid("more arguments of a tool call that was complete")
            return
        self.unsent.append(text)
        if self.call is not None:
            self.pieces.append(text)
            self.first = self.first or text.lstrip()[:1]
            self.last = text.rstrip()[-1:] or self.last
            self.is_complete = None

    @property
    def is_object(self) -> bool:
        """Whether what has come may be sent: arguments may still turn out to be `null`, or none."""
        return self.call is None or self.first == "{"

    @property
    def is_whole(self) -> bool:
        """Whether nothing can follow, were the next piece of something else."""
        if self.call is None:
            return True
        if self.last != "}":
            return False
        if self.is_complete is None:
            self.is_complete = arguments_of("".join(self.pieces)) is not None
        return self.is_complete


class Events:
    """Writes the stream of one message. `signature` is what its thoughts are signed with."""

    def __init__(self, message_id: str, reader: Reader, signature: str) -> None:
        self._id = message_id
        self._reader = reader
        self._signature = signature
        self._out: list[bytes] = []
        self._began = False
        self._index = -1
        # The first is open, the others wait.
        self._blocks: deque[_Block] = deque()
        self._calls: dict[int, _Block] = {}

    def __repr__(self) -> str:
        return f"<Events index={self._index} blocks={len(self._blocks)}>"

    def begin(self, model: str) -> None:
        """Begin the message, once."""
        if self._began:
            return
        self._began = True
        usage = {
            "input_tokens": 0,
            "output_tokens": 0,
            "cache_creation_input_tokens": None,
            "cache_read_input_tokens": None,
        }
        self._write("message_start", message=message(self._id, model, [], usage=usage))

    def take(self, piece: Piece) -> None:
        """Take one piece of the answer; StreamFailed for one that cannot be."""
        block = self._call_block(piece.call) if isinstance(piece, Called) else self._block_of(piece)
        block.add(piece.text)
        if self._blocks and block is self._blocks[0]:
            self._send(block)

    def end(self, sequences: list[str]) -> None:
        """End what is open, and the message. StreamFailed for a call that is none."""
        while self._blocks:
            self._end_block()
        reason, sequence = stop_of(self._reader, sequences)
        self._write(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": sequence, "stop_details": None},
            usage=usage_told(self._reader.tokens),
        )
        self._write("message_stop")

    def sent(self) -> bytes:
        """Return the events that were written since the last time."""
        out, self._out = self._out, []
        return b"".join(out)

    def _block_of(self, said: Said) -> _Block:
        # A refusal is told in a text.
        kind: Literal["thinking", "text"] = "thinking" if said.kind == "thinking" else "text"
        if self._blocks and self._blocks[-1].kind == kind:
            return self._blocks[-1]
        return self._next(_Block(kind))

    def _call_block(self, call: Call) -> _Block:
        block = self._calls.get(call.number)
        if block is None:
            block = self._calls[call.number] = self._next(_Block("tool_use", call))
        return block

    def _next(self, block: _Block) -> _Block:
        """Let a block follow; what is whole before it ends."""
        while self._blocks and self._blocks[0].is_whole:
            self._end_block()
        self._blocks.append(block)
        return block

    def _end_block(self) -> None:
        """End the open block, and begin the next with what has come of it."""
        block = self._blocks[0]
        self._send(block)
        if block.call is not None:
            self._end_call(block)
        elif block.kind == "thinking":
            self._delta("signature_delta", signature=self._signature)
        self._write("content_block_stop", index=self._index)
        block.ended = True
        self._blocks.popleft()
        if self._blocks:
            self._send(self._blocks[0])

    def _end_call(self, block: _Block) -> None:
        read_arguments("".join(block.pieces), was_cut=self._reader.was_cut)
        if not block.is_object:
            # Not all clients read nothing as no arguments.
            self._delta("input_json_delta", partial_json=_NO_ARGUMENTS)
        block.pieces.clear()

    def _send(self, block: _Block) -> None:
        """Send what has come of the open block."""
        if not block.begun:
            block.begun = True
            self._index += 1
            self._write("content_block_start", index=self._index, content_block=_beginning(block))
        text = "".join(block.unsent) if block.is_object else ""
        if not text:
            return
        block.unsent.clear()
        match block.kind:
            case "text":
                self._delta("text_delta", text=text)
            case "thinking":
                self._delta("thinking_delta", thinking=text)
            case "tool_use":
                self._delta("input_json_delta", partial_json=text)

    def _delta(self, kind: str, **fields: Any) -> None:
        self._write("content_block_delta", index=self._index, delta={"type": kind, **fields})

    def _write(self, kind: str, **fields: Any) -> None:
        data = msgspec.json.encode({"type": kind, **fields})
        self._out.append(b"event: %s\ndata: %s\n\n" % (kind.encode(), data))


def _beginning(block: _Block) -> Mapping[str, Any]:
    if block.call is not None:
        return tool_use_block(block.call.id, block.call.name, {})
    return thinking_block("", "") if block.kind == "thinking" else {"type": "text", "text": ""}
