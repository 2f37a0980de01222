"""Anthropic's Messages protocol, spoken by what knows chat completions only.

Source: Anthropic's API reference, `POST /v1/messages` and `/v1/messages/count_tokens`, version
2023-06-01, and the types of its SDK.
"""

from collections.abc import Mapping
from typing import Any

from router.dialects.calls import Called
from router.dialects.messages.answer import content_of, message, stop_of, usage_told
from router.dialects.messages.events import Events
from router.dialects.messages.fields import chat_fields, hints, shows_thinking, stop_sequences
from router.dialects.pieces import Piece, Reader
from router.dialects.shapes import invalid
from router.dialects.tokens import tokens_of
from router.dialects.translation import Translation

__all__ = ["count", "translate"]


def translate(
    fields: Mapping[str, Any],
    *,
    request_id: str,
    now: int,  # noqa: ARG001 the signature is that of every dialect: a message has no date
) -> Translation:
    """Put a request as a chat completion; `request_id` is what the answer's ids are made of.

    Raises Refused `unsupported_parameter` for what no chat completion can say, `invalid_request`
    for what is malformed.
    """
    return _Message(fields, request_id)


def count(
    fields: Mapping[str, Any],
    *,
    request_id: str = "",  # noqa: ARG001 the signature is that of every dialect: a count has no id
    now: int = 0,  # noqa: ARG001 likewise
) -> Translation:
    """Put the question how many tokens a prompt has as a chat completion of one token.

    They are counted by whoever has the tokenizer. Raises Refused as `translate` does.
    """
    return _Count(fields)


class _Message:
    """One request for a message, and its answer."""

    number = 0

    def __init__(self, fields: Mapping[str, Any], request_id: str) -> None:
        self.chat: Mapping[str, Any] = chat_fields(fields)
        self.hints = hints(fields)
        self._id = f"msg_{request_id}"
        self._asked = fields.get("model")
        self._shows_thinking = shows_thinking(fields)
        self._sequences = stop_sequences(fields)
        self._reader = Reader(f"toolu_{request_id}")
        # A thought is known again by nobody, but some clients drop one that is not signed.
        self._events = Events(self._id, self._reader, request_id)
        self._signature = request_id

    def __repr__(self) -> str:
        return f"<messages {self._id}>"

    def answer(self, chat: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole chat completion as a message; StreamFailed if it is none."""
        reader = self._reader
        pieces = self._shown(reader.whole(chat))
        reason, sequence = stop_of(reader, self._sequences)
        return message(
            self._id,
            self._model(),
            content_of(pieces, self._signature, was_cut=reader.was_cut),
            stop_reason=reason,
            stop_sequence=sequence,
            usage=usage_told(reader.tokens),
        )

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """Return the events that one chunk becomes; raises StreamFailed for what is none."""
        self._take(self._reader.chunk(chunk))
        return self._events.sent()

    def finish(self) -> bytes:
        """Return the events that end the message; raises StreamFailed for a call that is none."""
        self._take(self._reader.end())
        self._events.end(self._sequences)
        return self._events.sent()

    def _take(self, pieces: list[Piece]) -> None:
        self._events.begin(self._model())
        for piece in self._shown(pieces):
            self._events.take(piece)

    def _shown(self, pieces: list[Piece]) -> list[Piece]:
        if self._shows_thinking:
            return pieces
        return [piece for piece in pieces if isinstance(piece, Called) or piece.kind != "thinking"]

    def _model(self) -> str:
        return self._reader.model or (self._asked if isinstance(self._asked, str) else "")


class _Count:
    """One question for the tokens of a prompt."""

    number = 0

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.chat: Mapping[str, Any] = chat_fields(fields, counted=True)
        self.hints = hints(fields)

    def __repr__(self) -> str:
        return "<messages count>"

    def answer(self, chat: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tokens of the prompt; StreamFailed where the server tells none."""
        told = tokens_of(chat)
        if told is None or not told.prompt:
            raise invalid("no usage, and tokens are not guessed")
        return {"input_tokens": told.prompt}

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """Raise StreamFailed: a count is never streamed."""
        raise invalid(f"a chunk of {len(chunk)} fields where a whole answer is due")

    def finish(self) -> bytes:
        """Return nothing."""
        return b""
