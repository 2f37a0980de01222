"""GET /admin/events: what happens, as server-sent events."""

from collections.abc import AsyncIterator

import msgspec
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from router.events import Bus, Event

# So often a reader hears that the stream lives, and a connection that died shows.
_COMMENT_S = 15.0
_COMMENT = b": nothing happened\n\n"


def event_routes(bus: Bus) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["events"])

    @routes.get("/admin/events")
    async def stream_events() -> StreamingResponse:
        """Return the events from now on, until one of both sides leaves.

        A comment comes first: what happens after it is in the stream.
        """
        headers = {"cache-control": "no-store"}
        return StreamingResponse(_frames(bus), headers=headers, media_type="text/event-stream")

    return routes


async def _frames(bus: Bus) -> AsyncIterator[bytes]:
    with bus.subscribe() as subscription:
        yield b": signalbox\n\n"
        async for event in subscription.read(_COMMENT_S):
            yield _COMMENT if event is None else _spell(event)


def _spell(event: Event) -> bytes:
    # JSON has no line breaks of its own, so the data is one line.
    head = f"id: {event.number}\nevent: {event.name}\ndata: ".encode()
    return head + msgspec.json.encode(event.data) + b"\n\n"
