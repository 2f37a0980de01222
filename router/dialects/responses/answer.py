"""An answer on its way: the pieces of a chat completion, put together as items."""

from collections.abc import Sequence
from typing import Any

from router.dialects.responses.chunk import (
    Piece,
    invalid,
    object_of,
    pieces_of_calls,
    reasoning_of,
    text_of,
)
from router.dialects.responses.output import Call, CustomCall, Event, Item, Message, Reasoning
from router.dialects.responses.tools import Tools


class _Caller:
    """Collects who calls what until the arguments begin: servers may cut a name, or repeat it."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.call: Call | None = None
        self.argued = False

    def is_another(self, piece: Piece, name: str, call_id: str) -> bool:
        """Tell whether a piece in this one's place begins a call of its own.

        Servers that do not count send no index, or 0 for every call.
        """
        if not name:
            return False
        if call_id and self.id:
            return call_id != self.id
        return self.argued and "index" not in piece

    def learn(self, name: str, call_id: str) -> None:
        """Take the name and the id that a piece brings."""
        self.id = self.id or call_id
        if self.call is None and name != self.name:
            self.name += name


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
        self._callers: list[_Caller] = []
        # How many of them have begun their calls: they do so in order.
        self._calls = 0
        self._call_ids: set[str] = set()
        self._caller_at: dict[int, _Caller] = {}
        # Those that no text has come with yet.
        self._logprobs: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return f"<Answer {self._items}>"

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items as they are told."""
        return [item.spelled for item in self._items]

    def take(self, delta: Piece, logprobs: Sequence[dict[str, Any]]) -> None:
        """Take a piece of a chat's message; StreamFailed for what none can be."""
        if thought := reasoning_of(delta):
            self._thinking().add(thought)
        self._logprobs += logprobs
        said = text_of(delta, "content")
        # A token may be a part of a letter: what is known of it goes with the text around it.
        if said or (logprobs and isinstance(self._talk, Message)):
            self._speaking().say(said, self._logprobs)
            self._logprobs = []
        if refused := text_of(delta, "refusal"):
            self._speaking().refuse(refused)
        for place, piece in pieces_of_calls(delta):
            self._take_call(place, piece)

    def end(self, *, cut: bool) -> None:
        """Come to an end; if `cut`, it was the last item that did not."""
        for caller in self._callers:
            self._begun(caller)
        last = self._items[-1] if self._items else None
        # Whatever speaks is the last: a call that begins makes it fall silent.
        self._fall_silent(cut=cut)
        for caller in self._callers:
            call = self._begun(caller)
            call.end(cut=cut and call is last)

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

    def _take_call(self, place: int, piece: Piece) -> None:
        function = object_of(piece.get("function"), "a function")
        name, call_id = text_of(function, "name"), text_of(piece, "id")
        arguments = text_of(function, "arguments")
        index = piece.get("index")
        number = index if type(index) is int else place
        caller = self._caller_at.get(number)
        if caller is None or caller.is_another(piece, name, call_id):
            caller = self._caller_at[number] = _Caller()
            self._callers.append(caller)
        caller.learn(name, call_id)
        if arguments:
            caller.argued = True
            self._begun(caller).add(arguments)

    def _begun(self, caller: _Caller) -> Call:
        """Return a caller's call, which begins at the latest now, and after those before it."""
        while caller.call is None:
            each = self._callers[self._calls]
            each.call = self._new_call(each)
            self._calls += 1
        return caller.call

    def _new_call(self, caller: _Caller) -> Call:
        if not caller.name:
            raise invalid("a tool call without a name")
        self._fall_silent()
        tool = self._tools.called(caller.name)
        kind = CustomCall if tool.kind == "custom" else Call
        call = kind(*self._new(), tool=tool, call_id=self._call_id(caller))
        self._items.append(call)
        return call

    def _call_id(self, caller: _Caller) -> str:
        """Return an id that no other call of this answer has: by it the result is told apart."""
        if caller.id and caller.id not in self._call_ids:
            self._call_ids.add(caller.id)
            return caller.id
        return f"call_{self._request_id}_{len(self._items)}"
