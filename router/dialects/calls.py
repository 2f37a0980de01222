"""The calls of an answer, told apart and put in order, however their pieces come.

Servers cut them anywhere, or send them whole; mix them; leave out an index, or give all of them the
same one; leave out an id, or repeat it; cut a name, or repeat it with each piece. What a client
gets is put in order: a call begins once its name is known to be whole, after all those before it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from router.dialects.shapes import invalid, object_of, text_of


class Call(NamedTuple):
    """A call that has begun. `number` counts them from 0; no two of an answer have one id."""

    number: int
    id: str
    name: str


class Called(NamedTuple):
    """A piece of a call's arguments; the first of a call may be empty."""

    call: Call
    text: str


class _Caller:
    """What is known of a call: its own `id`, its name, and the arguments that wait for that."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.call: Call | None = None
        self.waiting: list[str] = []
        self._argued = False
        self._last = ""
        self._name: list[str] = []
        self._name_length = 0

    @property
    def name(self) -> str:
        """The name so far."""
        return "".join(self._name)

    def is_another(self, name: str, call_id: str, arguments: str, *, is_counted: bool) -> bool:
        """Tell whether a piece in this one's place begins a call of its own.

        Only one with a name may. Ids tell it, where there are two. Else a server that sends no
        index repeats no name either; and nowhere in JSON does an object begin where one has ended.
        """
        if not name:
            return False
        if call_id and self.id:
            return call_id != self.id
        if not is_counted:
            return self._argued
        return self._last == "}" and arguments.lstrip().startswith("{")

    def learn(self, name: str, call_id: str) -> None:
        """Take what a piece tells of the id, and of the name until the call has begun."""
        self.id = self.id or call_id
        if not name or self.call is not None:
            return
        # Joined only for a piece that is as long as all before it.
        if len(name) != self._name_length or name != self.name:
            self._name.append(name)
            self._name_length += len(name)

    def add(self, text: str) -> None:
        """Take note of a piece of the arguments, which waits until the call has begun."""
        self._argued = True
        self._last = text.rstrip()[-1:] or self._last
        if self.call is None:
            self.waiting.append(text)


class Calls:
    """The calls of one answer. Ids that a server left out, or had given already, are `prefix`_n."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._callers: list[_Caller] = []
        self._at: dict[int, _Caller] = {}
        # How many have begun, how many are to begin as soon as they can, and from where on ids of
        # ours may be free.
        self._begun = 0
        self._due = 0
        self._free = 0
        self._ids: set[str] = set()

    def __repr__(self) -> str:
        return f"<Calls {self._begun} of {len(self._callers)} begun>"

    def __len__(self) -> int:
        return len(self._callers)

    def take(self, pieces: list[Any], *, whole: bool) -> Iterator[Called]:
        """Take the calls of a chunk, or of a `whole` answer, in which each is one."""
        for place, given in enumerate(pieces):
            piece = object_of(given, "a tool call")
            function = object_of(piece.get("function"), "a function")
            name, call_id = text_of(function, "name"), text_of(piece, "id")
            arguments, index = text_of(function, "arguments"), piece.get("index")
            # By the type alone: true is no number.
            is_counted = type(index) is int and not whole
            at: Any = index if is_counted else place
            caller = self._at.get(at)
            if caller is None or caller.is_another(name, call_id, arguments, is_counted=is_counted):
                caller = self._at[at] = _Caller(len(self._callers))
                self._callers.append(caller)
            caller.learn(name, call_id)
            if arguments:
                caller.add(arguments)
                self._due = max(self._due, caller.number + 1)
            if arguments and caller.call is not None:
                yield Called(caller.call, arguments)
            yield from self._begin()

    def begin_all(self) -> Iterator[Called]:
        """Begin those that have no arguments yet, since something else follows."""
        self._due = len(self._callers)
        return self._begin()

    def end(self) -> Iterator[Called]:
        """Begin those that are left; StreamFailed for one that has no name."""
        yield from self.begin_all()
        if self._begun < len(self._callers):
            raise invalid("a tool call without a name")

    def _begin(self) -> Iterator[Called]:
        """Begin what is due, in order, with the arguments that have waited."""
        while self._begun < self._due:
            caller = self._callers[self._begun]
            if not caller.name:
                return
            caller.call = Call(caller.number, self._id_of(caller), caller.name)
            self._begun += 1
            waited, caller.waiting = "".join(caller.waiting), []
            yield Called(caller.call, waited)

    def _id_of(self, caller: _Caller) -> str:
        """Return an id that no other call of this answer has: by it results are told apart."""
        found = caller.id
        if not found or found in self._ids:
            self._free = max(self._free, caller.number)
            while (found := f"{self._prefix}_{self._free}") in self._ids:
                self._free += 1
        self._ids.add(found)
        return found
