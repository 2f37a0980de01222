"""One request in the responses protocol and its answer, over a chat completion.

A whole answer goes the way of a stream that comes in one piece: both end in the same response.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router.dialects.responses.answer import Answer
from router.dialects.responses.chunk import (
    choice_of,
    invalid,
    logprobs_of,
    object_of,
    text_of,
    tokens_of,
)
from router.dialects.responses.request import Request
from router.dialects.responses.response import unanswered
from router.errors import StreamFailed

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
        self._reason: str | None = None
        self._begun = False

    def __repr__(self) -> str:
        return f"<Exchange {self._response['id']} {self._response['status']}>"

    def answer(self, chat: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole chat completion as a response; ValueError if it is none."""
        try:
            choice = choice_of(chat)
            if choice is None:
                raise invalid("no choice")
            self._take(chat, {**choice, "delta": choice.get("message")})
            return self._ended()
        except StreamFailed as error:
            raise ValueError(error.message) from error

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """Return the events, framed, that one chunk of a chat's stream becomes.

        Raises StreamFailed `upstream_invalid_frame` for what no chunk may be.
        """
        self._take(chunk, choice_of(chunk))
        return self._framed()

    def finish(self) -> bytes:
        """Return the events, framed, that end a stream whose chat has come to a good end."""
        response = self._ended()
        kind = f"response.{response['status']}"
        self._answer.events.append({"type": kind, "response": response})
        return self._framed()

    def _take(self, chat: Mapping[str, Any], choice: Mapping[str, Any] | None) -> None:
        response = self._response
        for name in ("model", "service_tier"):
            if isinstance(told := chat.get(name), str) and told:
                response[name] = told
        response["usage"] = tokens_of(chat) or response["usage"]
        self._begin()
        if choice is None:
            return
        logprobs = logprobs_of(choice) if self._request.logprobs else ()
        self._answer.take(object_of(choice.get("delta"), "a message"), logprobs)
        self._reason = text_of(choice, "finish_reason") or self._reason

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
        cut = _REASONS.get(self._reason or "")
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
