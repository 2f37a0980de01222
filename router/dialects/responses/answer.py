"""An answer on its way: the pieces of a chat completion, put together as items."""

from typing import Any

from router.dialects.calls import Called
from router.dialects.pieces import Logprob, Piece, Said
from router.dialects.responses.output import Call, CustomCall, Event, Item, Message, Reasoning
from router.dialects.responses.tools import Tools


class Answer:
    """The items of one answer so far. `events` are those not yet taken.

    `summarized`: what is thought is shown where a client expects a summary.
    """

    def __init__(self, request_id: str, tools: Tools, *, summarized: bool) -> None:
        self.events: list[Event] = []
        self._request_id = request_id
        self._tools = tools
        self._summarized = summarized
        self._items: list[Item] = []
        # What says or thinks something now; calls are open all of them, up to the end.
        self._talk: Message | Reasoning | None = None
        self._calls: list[Call] = []
        # Those that no text has come with yet.
        self._logprobs: list[Logprob] = []

    def __repr__(self) -> str:
        return f"<Answer {self._items}>"

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items as they are told."""
        return [item.spelled for item in self._items]

    def take(self, piece: Piece) -> None:
        """Take a piece of a chat's answer."""
        if isinstance(piece, Called):
            self._call(piece)
        elif piece.kind == "thinking":
            self._thinking().add(piece.text)
        elif piece.kind == "refusal":
            self._speaking().refuse(piece.text)
        else:
            self._say(piece)

    def end(self, *, cut: bool) -> None:
        """Come to an end; if `cut`, it was the last item that did not."""
        last = self._items[-1] if self._items else None
        # Whatever speaks is the last: a call that begins makes it fall silent.
        self._fall_silent(cut=cut)
        for call in self._calls:
            call.end(cut=cut and call is last)

    def _say(self, said: Said) -> None:
        self._logprobs += said.logprobs
        # A token may be a part of a letter: what is known of it goes with the text around it.
        if said.text or isinstance(self._talk, Message):
            self._speaking().say(said.text, self._logprobs)
            self._logprobs = []

    def _thinking(self) -> Reasoning:
        if not isinstance(self._talk, Reasoning):
            self._fall_silent()
            self._talk = Reasoning(*self._new(), summarized=self._summarized)
            self._items.append(self._talk)
        return self._talk

    def _speaking(self) -> Message:
        if not isinstance(self._talk, Message):
            self._fall_silent()
            self._talk = Message(*self._new())
            self._items.append(self._talk)
        return self._talk

    def _fall_silent(self, *, cut: bool = False) -> None:
        if self._talk is not None:
            self._talk.end(cut=cut)
            self._talk = None

    def _new(self) -> tuple[int, str, list[Event]]:
        return len(self._items), self._request_id, self.events

    def _call(self, piece: Called) -> None:
        if piece.call.number == len(self._calls):
            self._fall_silent()
            tool = self._tools.called(piece.call.name)
            kind = CustomCall if tool.kind == "custom" else Call
            call = kind(*self._new(), tool=tool, call_id=piece.call.id)
            self._calls.append(call)
            self._items.append(call)
        if piece.text:
            self._calls[piece.call.number].add(piece.text)
