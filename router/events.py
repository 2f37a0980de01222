"""What is going on: the requests in flight, each of which can be stopped, and the bus of events."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from router.errors import ClientGone, SignalboxError

# How many events wait for a reader that is slow; it misses the oldest of more.
_KEPT = 256
# The event that tells of a request that has ended.
_REQUEST = "request"


class Flight(msgspec.Struct):
    """One request in flight; its fields are filled in as they become known.

    `asked` counts the providers that it was sent to; `stop` ends it by the error that it is given,
    and is None while there is nothing to end yet. `failure` is the code of what its answer told or
    broke off by, where nothing was raised.
    """

    id: int
    request_id: str
    since_s: float
    state: str = "queued"
    provider: str | None = None
    model: str | None = None
    needs: tuple[str, ...] = ()
    priority: int | None = None
    asked: int = 0
    stop: Callable[[Exception], None] | None = None
    failure: str | None = None

    def row(self, now_s: float) -> dict[str, Any]:
        """Return what may be shown of it; nothing of what it says."""
        return {
            "id": self.id,
            "request_id": self.request_id,
            "provider": self.provider,
            "model": self.model,
            "needs": list(self.needs),
            "priority": self.priority,
            "state": self.state,
            "attempts": self.asked,
            "age_s": round(now_s - self.since_s, 3),
        }


class InFlight:
    """The registry of requests in flight; its length is the gauge that must return to zero.

    Those that end are told to the bus.
    """

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus
        self._flights: dict[int, Flight] = {}
        self._ids = itertools.count(1)

    def __repr__(self) -> str:
        return f"<InFlight {len(self._flights)}>"

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))

    def get(self, number: int) -> Flight | None:
        """Return the request with this number; None when it is not in flight any more."""
        return self._flights.get(number)

    def track(self, request_id: str) -> "Tracked":
        """Return a context manager that keeps one request in the registry."""
        flight = Flight(next(self._ids), request_id, time.monotonic())
        return Tracked(self._flights, flight, self._bus)


class Tracked:
    """Keeps one flight in the registry while it is entered, and tells how it ended."""

    __slots__ = ("_bus", "_flight", "_flights")

    def __init__(self, flights: dict[int, Flight], flight: Flight, bus: "Bus") -> None:
        self._flights = flights
        self._flight = flight
        self._bus = bus

    def __enter__(self) -> Flight:
        self._flights[self._flight.id] = self._flight
        return self._flight

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        flight = self._flight
        del self._flights[flight.id]
        # There are thousands a second, and mostly nobody who wants to hear of them.
        if self._bus.heard:
            code = flight.failure if error is None else _code_of(error)
            told = {**flight.row(time.monotonic()), "state": "ended", "error": code}
            self._bus.publish(_REQUEST, told)


def _code_of(error: BaseException) -> str:
    """Return what a request ended by: an error's code, or that there was nobody to be told."""
    if isinstance(error, SignalboxError):
        return error.code
    if isinstance(error, ClientGone):
        return "client_left"
    # Nobody but the server cancels a request, when its grace at the end is over.
    return "shutting_down" if isinstance(error, asyncio.CancelledError) else "internal_error"


class Event(msgspec.Struct, frozen=True):
    """Something that happened; consecutive numbers, so that a gap shows what a reader missed."""

    number: int
    name: str
    data: Mapping[str, Any]


class Bus:
    """Tells what happens to everyone who subscribed; the event loop's own."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Bus {len(self._subscriptions)}{' closed' if self._closed else ''}>"

    @property
    def heard(self) -> bool:
        """Whether anybody is there to be told."""
        return bool(self._subscriptions)

    def publish(self, name: str, data: Mapping[str, Any]) -> None:
        """Tell an event; nobody is waited for."""
        event = Event(next(self._numbers), name, data)
        for subscription in self._subscriptions:
            subscription.put(event)

    def subscribe(self) -> "Subscription":
        """Return what is to be entered, and read: all events from then on."""
        return Subscription(self._subscriptions, closed=self._closed)

    def close(self) -> None:
        """End all subscriptions, and those to come."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()


class Subscription:
    """The events since it was entered, until the bus is closed."""

    def __init__(self, subscriptions: "set[Subscription]", *, closed: bool) -> None:
        self._subscriptions = subscriptions
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._closed = closed
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        self._subscriptions.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._subscriptions.discard(self)

    def put(self, event: Event) -> None:
        """Keep an event for the reader."""
        self._events.append(event)
        self._changed.set()

    def close(self) -> None:
        """Let the reader come to an end after what is there."""
        self._closed = True
        self._changed.set()

    async def read(self, within_s: float) -> AsyncIterator[Event | None]:
        """Yield the events as they come, and None whenever none came within that time."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self._closed:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._changed.wait()
            except TimeoutError:
                yield None
