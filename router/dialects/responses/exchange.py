"""One request in the responses protocol and its answer, over a chat completion.

A whole answer goes the way of a stream that comes in one piece: both end in the same response.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from router.dialects.pieces import Piece, Reader
from router.dialects.responses.answer import Answer
from router.dialects.responses.request import Request
from router.dialects.responses.response import unanswered, usage_told

# Why an answer is not whole, by how the chat ended; any other end is a good one.
_REASONS: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Exchange:
    """A `Translation`: the chat to ask, and the way back for what it answers.

    `number` is the sequence number of the next event.
    """

    def __init__(self, request: Request, *, request_id: str, now: int) -> None:
        self.chat: Mapping[str, Any] = request.chat
        self.hints: Mapping[str, Any] = {}
        self.number = 0
        self._request = request
        self._response = unanswered(
            request.fields, request_id=request_id, now=now, withheld=request.withheld
        )
        self._answer = Answer(request_id, request.tools, summarized=request.summarized)
        self._reader = Reader(f"call_{request_id}", logprobs=request.logprobs)
        self._begun = False

    def __repr__(self) -> str:
        return f"<Exchange {self._response['id']} {self._response['status']}>"

    def answer(self, chat: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole chat completion as a response; StreamFailed if it is none."""
        self._take(chat, self._reader.whole(chat))
        return self._ended()

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """Return the events, framed, that one chunk of a chat's stream becomes.

        Raises StreamFailed `upstream_invalid_frame` for what no chunk may be.
        """
        self._take(chunk, self._reader.chunk(chunk))
        return self._framed()

    def finish(self) -> bytes:
        """Return the events, framed, that end a stream whose chat has come to a good end."""
        for piece in self._reader.end():
            self._answer.take(piece)
        response = self._ended()
        kind = f"response.{response['status']}"
        self._answer.events.append({"type": kind, "response": response})
        return self._framed()

    def _take(self, chat: Mapping[str, Any], pieces: Iterable[Piece]) -> None:
        told, tier = self._reader, chat.get("service_tier")
        if told.model:
            self._response["model"] = told.model
        if isinstance(tier, str) and tier:
            self._response["service_tier"] = tier
        self._response["usage"] = usage_told(told.tokens)
        self._begin()
        for piece in pieces:
            self._answer.take(piece)

    def _begin(self) -> None:
        """Tell of the response that begins, once."""
        if not self._begun:
            self._begun = True
            # Usage is told at the end, even by who told it at once.
            begun = {**self._response, "usage": None}
            for kind in ("created", "in_progress"):
                self._answer.events.append({"type": f"response.{kind}", "response": begun})

    def _ended(self) -> dict[str, Any]:
        """Return the response as it is at its end."""
        cut = _REASONS.get(self._reader.finish)
        self._answer.end(cut=cut is not None)
        self._response |= {
            "status": "completed" if cut is None else "incomplete",
            "incomplete_details": None if cut is None else {"reason": cut},
            "output": self._answer.output,
        }
        return self._response

    def _framed(self) -> bytes:
        frames = bytearray()
        for event in self._answer.events:
            numbered = {**event, "sequence_number": self.number}
            self.number += 1
            frames += b"event: %s\ndata: %s\n\n" % (
                event["type"].encode(),
                msgspec.json.encode(numbered),
            )
        self._answer.events.clear()
        return bytes(frames)
