"""What is going on: the requests in flight, each of which can be stopped."""

import itertools
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import msgspec


class Flight(msgspec.Struct):
    """One request in flight; its fields are filled in as they become known.

    `asked` counts the providers that it was sent to; `stop` ends it by the error that it is given,
    and is None while there is nothing to end yet.
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
    """The registry of requests in flight; its length is the gauge that must return to zero."""

    def __init__(self) -> None:
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
        return Tracked(self._flights, Flight(next(self._ids), request_id, time.monotonic()))


class Tracked:
    """Keeps one flight in the registry while it is entered."""

    __slots__ = ("_flight", "_flights")

    def __init__(self, flights: dict[int, Flight], flight: Flight) -> None:
        self._flights = flights
        self._flight = flight

    def __enter__(self) -> Flight:
        self._flights[self._flight.id] = self._flight
        return self._flight

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del self._flights[self._flight.id]
