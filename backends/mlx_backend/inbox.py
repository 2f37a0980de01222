"""What the engine says of one answer, as its client's side hears it: in order, and in time."""

import asyncio
from dataclasses import dataclass
from functools import partial

from backends.mlx_backend.delivery import Delivery
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import (
    Admitted,
    Begun,
    Event,
    Failed,
    Finished,
    Progress,
    Sink,
    Text,
)

News = Admitted | Begun | Text | Finished


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a generation may take once it has left the queue: from step to step, and in all.

    `queue_s` is how long it may wait before that.
    """

    token_s: float = 30.0
    total_s: float = 3600.0
    queue_s: float | None = None


class ClientGone(Exception):
    """The client closed its connection."""


@dataclass(slots=True)
class _Clock:
    """When a choice's next step must be done, and when all of it, by the loop's time."""

    step_ends_at: float
    ends_at: float

    @property
    def first(self) -> float:
        return min(self.step_ends_at, self.ends_at)


class Inbox:
    """The events of one answer's choices; all but the sinks belongs to the event loop.

    Sinks may be called on any thread. `close` it when nothing more is read.
    """

    def __init__(self, deadlines: Deadlines, delivery: Delivery) -> None:
        delivery.open()
        self._loop = asyncio.get_running_loop()
        self._delivery = delivery
        self._deadlines = deadlines
        self._news: list[tuple[int, News]] = []
        self._failure: ChatError | ClientGone | None = None
        # Of the choices that have left the queue: before that the router's deadlines apply.
        self._clocks: dict[int, _Clock] = {}
        self._reader: asyncio.Future[None] | None = None
        # Set for the deadline that was the first when it was set, and not moved with each step.
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Inbox running={sorted(self._clocks)} unread={len(self._news)}>"

    def sink(self, choice: int) -> Sink:
        """Return where the events of a choice go."""

        def post(event: Event) -> None:
            self._delivery.post(partial(self._take, choice, event))

        return post

    def client_gone(self) -> None:
        """Nobody reads the answer any more: what is still unread counts for nothing."""
        self._news.clear()
        self._fail(ClientGone())

    def close(self) -> None:
        """Watch no deadline any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def read(self) -> list[tuple[int, News]]:
        """Return all there is to know, at least one thing, and of which choice each is.

        Raises ChatError for a choice that failed or passed a deadline, and ClientGone.
        """
        while not self._news and self._failure is None:
            if self._timer is None:
                self._set_timer()
            self._reader = self._loop.create_future()
            await self._reader
        if not self._news and self._failure is not None:
            raise self._failure
        news, self._news = self._news, []
        return news

    def _take(self, choice: int, event: Event) -> None:
        self._wind(choice, event)
        match event:
            case Progress():
                return
            case Failed(error=error):
                self._fail(error)
            case _ if self._failure is None:
                self._news.append((choice, event))
                self._wake()

    def _wind(self, choice: int, event: Event) -> None:
        if isinstance(event, Finished):
            self._clocks.pop(choice, None)
            return
        now = self._loop.time()
        clock = self._clocks.get(choice)
        if clock is not None:
            clock.step_ends_at = now + self._deadlines.token_s
        elif isinstance(event, Admitted):
            ends_at = now + self._deadlines.total_s
            self._clocks[choice] = _Clock(now + self._deadlines.token_s, ends_at)

    def _fail(self, failure: ChatError | ClientGone) -> None:
        self._failure = self._failure or failure
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _set_timer(self) -> None:
        # A clock that starts later, or goes on, never ends before those that run: no timer that is
        # set need ever be moved to an earlier time.
        first = min((clock.first for clock in self._clocks.values()), default=None)
        self._timer = None if first is None else self._loop.call_at(first, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._news:
            return  # it is the client that is late; the next `read` that waits sets a new one
        now = self._loop.time()
        if not any(clock.first <= now for clock in self._clocks.values()):
            self._set_timer()
            return
        passed = (
            f"{self._deadlines.total_s:g} s in all"
            if any(clock.ends_at <= now for clock in self._clocks.values())
            else f"{self._deadlines.token_s:g} s without a step"
        )
        text = f"the generation passed its deadline of {passed}"
        self._fail(ChatError("generation_failed", text))
