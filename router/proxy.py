"""The path of one request: read, classify, resolve, and try its routes, in one straight line."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.process_manager import ProcessManager
from backends.wire import PRIORITY, REQUEST_ID, Priority
from router.answer import OpenStream, open_answer
from router.body import BodyLimits, Buffered, JsonBody, decode
from router.capabilities import Requirement, classify_chat
from router.catalog import Catalog, Kind, Locality
from router.deadline import Deadline, Sweeper
from router.errors import ProviderFailed, Refused, Reply, RouteFailed
from router.events import Flight, InFlight
from router.presence import ClientPresent
from router.pump import Pace, pump
from router.reach import Reach, Ready, Timed, place, too_slow
from router.request import Receive, Scope, Send, priority, read_body, send_reply, wants_local_only
from router.resolver import Route, resolve
from router.upstream import Answer, UpstreamRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """What one request may cost: bytes in and out, further routes to try."""

    body: BodyLimits
    response_bytes: int
    further_attempts: int
    default_priority: Priority


@dataclass(slots=True)
class Timing:
    """Where one request's time went, in seconds: `waited_s` is for others, the rest is ours."""

    since: float
    queued_s: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """One request, understood: its body, what it needs, how urgent it is, and when it came."""

    path: str
    body: JsonBody
    requirement: Requirement
    priority: Priority
    request_id: str
    timing: Timing


class Proxy:
    """Serves chat completions by the catalog of the moment.

    `catalog` returns the snapshot to resolve by; `reaches` holds every provider by its name.
    """

    def __init__(
        self,
        *,
        catalog: Callable[[], Catalog],
        reaches: Mapping[str, Reach],
        processes: ProcessManager,
        in_flight: InFlight,
        buffered: Buffered,
        limits: ProxyLimits,
        sweeper: Sweeper,
    ) -> None:
        self._catalog = catalog
        self._reaches = reaches
        self._processes = processes
        self._in_flight = in_flight
        self._buffered = buffered
        self._limits = limits
        self._sweeper = sweeper

    async def chat_completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises SignalboxError for what the caller is to be told."""
        since = time.perf_counter()
        limits = self._limits
        with (
            self._in_flight.track(scope["state"]["request_id"]) as flight,
            self._buffered.share() as share,
        ):
            data = await read_body(receive, limits.body.size, share)
            body = decode(data, limits.body)
            requirement = classify_chat(body.fields, local_only=wants_local_only(scope))
            work = Work(
                path="/chat/completions",
                body=body,
                requirement=requirement,
                priority=priority(
                    scope,
                    body.fields,
                    limits.default_priority,
                    is_admin=scope["state"]["is_admin"],
                ),
                request_id=flight.request_id,
                timing=Timing(since),
            )
            flight.needs = requirement.needs
            routes = resolve(_named(requirement, body), self._catalog())
            with ClientPresent(scope["state"]["turn"]):
                await self._try_routes(routes, work, flight, send)

    async def _try_routes(
        self, routes: tuple[Route, ...], work: Work, flight: Flight, send: Send
    ) -> None:
        """Try the routes in order until one answers; the first one's error is the answer else."""
        errors: list[RouteFailed] = []
        for route in routes[: 1 + self._limits.further_attempts]:
            began = time.perf_counter()
            try:
                return await self._try_route(route, len(errors) + 1, work, flight, send)
            except RouteFailed as error:
                log.info("%s failed: %s (%s)", route.model.name, error.message, error.code)
                errors.append(error)
                work.timing.waited_s += time.perf_counter() - began
                if error.may_have_run:
                    break
        first = errors[0]
        if not isinstance(first, ProviderFailed):
            raise first
        return await send_reply(send, first.answer, _told(routes[0], len(errors), work))

    async def _try_route(
        self, route: Route, attempt: int, work: Work, flight: Flight, send: Send
    ) -> None:
        """Serve the request by one route; everything it holds is held by this `async with`."""
        reach = self._reaches[route.provider.name]
        flight.provider, flight.model, flight.state = route.provider.name, route.model.id, "queued"
        request = _upstream_request(route, work)
        began = time.perf_counter()
        async with place(reach) as queued:
            flight.state = "starting"
            async with (
                Ready(reach, route.model, self._processes),
                Timed(
                    reach.upstream.exchange(request),
                    route.provider.name,
                    reach.deadlines.first_byte_s,
                    self._sweeper,
                ) as answer,
            ):
                flight.state = "upstream"
                opened = await self._open(answer, route, reach, work, began)
                work.timing.queued_s += queued.waited_s
                work.timing.waited_s += time.perf_counter() - began
                headers = _told(route, attempt, work)
                if isinstance(opened, Reply):
                    return await send_reply(send, opened, headers)
                flight.state = "streaming"
                pace = Pace(reach.deadlines.idle_s, reach.deadlines.total_s)
                failure = await pump(
                    opened, answer, send, (*opened.headers, *headers), pace, self._sweeper
                )
                if failure is not None:
                    log.warning("%s: %s (%s)", route.model.name, failure.message, failure.code)
        return None

    async def _open(
        self, answer: Answer, route: Route, reach: Reach, work: Work, began: float
    ) -> Reply | OpenStream:
        """Return the answer once it is known to be one: whole, or a stream at its first event."""
        stream, deadlines = work.requirement.stream, reach.deadlines
        within_s = deadlines.first_byte_s if stream else deadlines.total_s
        with Deadline(self._sweeper) as deadline:
            left_s = within_s - (time.perf_counter() - began)
            deadline.expect(left_s, lambda: too_slow(route.provider.name, within_s))
            return await open_answer(
                answer,
                route.provider.name,
                stream=stream,
                size=self._limits.response_bytes,
                is_local=route.provider.locality is Locality.LOCAL,
            )


def _named(requirement: Requirement, body: JsonBody) -> Requirement:
    """Return the requirement, or refuse a `model` that is no name."""
    model = body.fields.get("model")
    if model is None:
        return requirement
    # The name goes into headers and logs, where a control character would end a line.
    if not isinstance(model, str) or not model.isprintable():
        raise Refused(
            "invalid_request", "model must be a string of printable characters.", param="model"
        )
    return requirement


def _upstream_request(route: Route, work: Work) -> UpstreamRequest:
    """Return the request as the provider gets it: nothing of the client's but its body."""
    provider = route.provider
    headers = [
        (b"content-type", b"application/json"),
        (b"accept", b"text/event-stream" if work.requirement.stream else b"application/json"),
        (b"accept-encoding", b"identity"),
        *((name.encode(), value.encode()) for name, value in provider.headers),
    ]
    if provider.api_key is not None:
        headers.append((b"authorization", b"Bearer " + provider.api_key.encode()))
    if provider.locality is Locality.LOCAL:
        # Nothing by which requests could be linked goes to anybody else.
        headers.append((REQUEST_ID.encode(), work.request_id.encode()))
    if provider.kind is Kind.BUILTIN:
        headers.append((PRIORITY.encode(), b"%d" % work.priority))
    return UpstreamRequest(
        method="POST",
        url=provider.base_url + work.path,
        headers=headers,
        body=work.body.encode({"model": route.model.id}),
    )


def _told(route: Route, attempts: int, work: Work) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that tell how the answer came about."""
    served, needs = route.capability, work.requirement.needs
    timing = work.timing
    overhead_s = time.perf_counter() - timing.since - timing.waited_s
    told = {
        "provider": route.provider.name,
        "model": route.model.id,
        "capability": ",".join((served, *(need for need in needs if need != served))),
        "reason": route.reason,
        "attempts": str(attempts),
        "queue-ms": f"{timing.queued_s * 1000:.1f}",
        "overhead-ms": f"{overhead_s * 1000:.2f}",
    }
    if route.shims:
        told["shims"] = ",".join(route.shims)
    return tuple(
        (b"x-signalbox-" + name.encode(), value.encode("ascii", "replace"))
        for name, value in told.items()
    )
